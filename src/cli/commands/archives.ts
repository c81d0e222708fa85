import type { Command } from 'commander';
import { ClipError, printable } from '../../bytes/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { addS3PlaceFlags, type S3PlaceFlags, s3PlaceOf } from '../image-flags.js';
import { byteSize } from '../numbers.js';
import { printResult } from '../output.js';
import { formatBytes } from '../units.js';

interface Flags extends CommonFlags, S3PlaceFlags {
  readonly to?: number;
  readonly platform?: string;
}

async function openStore(flags: Flags) {
  const { ArchiveStore } = await import('../../store/index.js');
  return new ArchiveStore((await locate(flags)).cacheDir);
}

async function list(flags: Flags): Promise<void> {
  const archives = (await openStore(flags)).list();
  printResult(archives, flags.json === true, () =>
    archives
      .map(({ reference, platform, manifestDigest, size, lastUse }) =>
        [reference || 'damaged', platform, manifestDigest, formatBytes(size), lastUse].map(printable).join('\t'),
      )
      .join('\n'),
  );
}

/** A digest itself, or the digest that a reference was last resolved to. */
async function digestOf(name: string, flags: Flags): Promise<string> {
  const { formatPlatform, hostPlatform, isDigest, parsePlatform, parseReference } = await import('../../oci/index.js');
  if (isDigest(name)) return name;
  if (name.startsWith('s3://')) {
    const [{ parseS3Url }, { s3StoreKey }] = await Promise.all([
      import('../../s3/index.js'),
      import('../../store/index.js'),
    ]);
    const key = s3StoreKey(parseS3Url(name, s3PlaceOf(flags)));
    const known = (await openStore(flags)).recall(key.canonical, key.platform);
    if (known !== null) return known.manifestDigest;
    throw new ClipError('NOT_FOUND', `no archive ${name} is stored`, {
      hint: 'clipctl archives ls lists those that are',
    });
  }
  const platform = formatPlatform(flags.platform === undefined ? hostPlatform() : parsePlatform(flags.platform));
  const known = (await openStore(flags)).recall(parseReference(name).canonical, platform);
  if (known !== null) return known.manifestDigest;
  throw new ClipError('NOT_FOUND', `no archive of ${name} for ${platform} is stored`, {
    hint: 'clipctl archives ls lists those that are',
  });
}

async function remove(names: readonly string[], flags: Flags): Promise<void> {
  const store = await openStore(flags);
  const removed: string[] = [];
  for (const name of names) {
    const digest = await digestOf(name, flags);
    if (!store.remove(digest)) throw new ClipError('NOT_FOUND', `no archive ${digest} is stored`);
    removed.push(digest);
  }
  printResult(removed, flags.json === true, () => removed.join('\n'));
}

async function prune(flags: Flags): Promise<void> {
  const store = await openStore(flags);
  const [{ LayerIndexDirectory }, { layerIndexesOf }] = await Promise.all([
    import('../../index/index.js'),
    import('../../store/index.js'),
  ]);
  const layers = new LayerIndexDirectory(layerIndexesOf((await locate(flags)).cacheDir));
  const freedBytes = store.prune(flags.to ?? 0) + layers.prune(flags.to ?? 0);
  const usedBytes = store.list().reduce((sum, { size }) => sum + size, layers.size());
  const result = { freedBytes, usedBytes };
  printResult(result, flags.json === true, () => `freed ${formatBytes(freedBytes)}, ${formatBytes(usedBytes)} left`);
}

export function registerArchives(program: Command): void {
  const archives = program.command('archives').description('list or remove the archives that --image made');
  archives.command('ls').description('list them, the last used first').action(list);
  const rm = archives
    .command('rm')
    .description('remove archives; mounts of them go on')
    .argument('<image...>', 'an image, the digest of its manifest, or s3://BUCKET/KEY')
    .option('--platform <os/arch>', "the image's platform (default: this machine's)");
  addS3PlaceFlags(rm).action(remove);
  archives
    .command('prune')
    .description('remove the longest unused, and the longest unused indexes of layers')
    .option('--to <size>', 'keep up to this much of each (default: nothing)', byteSize)
    .action(prune);
}
