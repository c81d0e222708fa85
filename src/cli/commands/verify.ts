import { type Command, Option } from 'commander';
import type { Archive } from '../../archive/index.js';
import { ClipError } from '../../bytes/index.js';
import type { SpanSource } from '../../check/index.js';
import type { ImageSource } from '../../oci/index.js';
import { locate } from '../daemon-flags.js';
import { addImageFlags, archiveOf, type ImageFlags } from '../image-flags.js';
import { printResult } from '../output.js';
import { credentialsFrom, interruptible } from './index-command.js';

interface Flags extends ImageFlags {
  readonly from: 'registry' | 'cache';
}

/** The source of the spans; the caller calls `close`. */
async function openSource(
  archive: Archive,
  flags: Flags,
): Promise<{ source: Pick<ImageSource, 'fetchInto'> | SpanSource; close: () => Promise<void> | void }> {
  if (flags.from === 'cache') {
    const { CachedSpans } = await import('../../cache/index.js');
    const { cacheDir } = await locate(flags);
    const layers = archive.layers.map(({ table }, i) => ({ digest: archive.image.layers[i]!.digest, table }));
    const source = new CachedSpans(cacheDir, layers);
    return { source, close: () => source.close() };
  }
  const credentials = credentialsFrom(flags);
  const { sourceForArchive } = await import('../../oci/index.js');
  const source = sourceForArchive(archive.image, {
    ...(credentials === undefined ? {} : { credentials }),
    ...(flags.plainHttp === undefined ? {} : { plainHttp: flags.plainHttp }),
  });
  return { source, close: () => source.close() };
}

async function run(flags: Flags): Promise<void> {
  const [{ ArchiveFile, verifyArchive }, { createProgress }, { formatBytes, shortDigest }] = await Promise.all([
    import('../../check/index.js'),
    import('../progress.js'),
    import('../units.js'),
  ]);
  const clip = await archiveOf(flags);
  const file = ArchiveFile.open(clip);
  const { archive } = file;
  const { source, close } = await openSource(archive, flags);
  const progress = await createProgress();
  try {
    const result = await interruptible((signal) =>
      verifyArchive(archive, source, {
        signal,
        onProgress: ({ digest, done, total, rate }) => progress.update(digest, shortDigest(digest), done, total, rate),
      }).finally(() => progress.stop()),
    );
    if (result === undefined) return;
    printResult(
      { path: file.path, identity: archive.identity, from: flags.from, ...result },
      flags.json === true,
      () => {
        const { layers, spans, absent, compressedBytes, files, problems } = result;
        const missing = absent > 0 ? `, ${absent} not cached` : '';
        const hashed = archive.sections.some((s) => s.name === 'hashes') ? `, ${files} files` : '';
        const extent = `${layers} layer${layers === 1 ? '' : 's'}, ${spans} spans (${formatBytes(compressedBytes)})${missing}${hashed}`;
        if (problems.length === 0) return `${file.path}: ${extent}: all as indexed`;
        return [
          ...problems.map((problem) => `  ${problem}`),
          `${file.path}: ${extent}: ${problems.length} problems`,
        ].join('\n');
      },
    );
    if (result.problems.length > 0) {
      throw new ClipError('DIGEST_MISMATCH', `${clip}: ${result.problems.length} spans or files are not as indexed`, {
        hint:
          flags.from === 'cache'
            ? 'clipctl cache verify frees the damaged spans; mounts find and replace them by themselves'
            : 'the layers in the registry were altered: push the image again',
      });
    }
  } finally {
    progress.stop();
    await close();
    file.close();
  }
}

export function registerVerify(program: Command): void {
  const command = program
    .command('verify')
    .description('check every span and every file hash of an archive against the registry or the cache')
    .addOption(
      new Option('--from <where>', 'check the spans of the registry, or those in the span cache')
        .choices(['registry', 'cache'])
        .default('registry'),
    );
  addImageFlags(command).action((flags: Flags) => run(flags));
}
