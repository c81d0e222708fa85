import { type Command, Option } from 'commander';
import type { Archive } from '../../archive/index.js';
import { ClipError, counted } from '../../bytes/index.js';
import type { ArchiveFile, SpanSource, StorageAccess, VerifyResult } from '../../check/index.js';
import type { ImageSource } from '../../oci/index.js';
import { locate } from '../daemon-flags.js';
import { addImageFlags, archiveOf, type ImageFlags, withDataPlace } from '../image-flags.js';
import { indexOldLayers } from '../old-layers.js';
import { archiveOrImage } from '../operand.js';
import { failed, printFailedResult, printResult } from '../output.js';
import { credentialsFrom } from '../registry-flags.js';
import { addStorageFlags, type StorageFlags, storageOverride } from '../storage-flags.js';
import { interruptible } from './index-command.js';

interface Flags extends ImageFlags, StorageFlags {
  readonly from: 'registry' | 'cache';
}

/** The source of the spans; the caller calls `close`. */
async function openSource(
  archive: Archive,
  fd: number,
  flags: Flags,
): Promise<{ source: Pick<ImageSource, 'fetchInto'> | SpanSource; close: () => Promise<void> | void }> {
  if (flags.from === 'cache') {
    const { CachedSpans } = await import('../../cache/index.js');
    const { cacheDir } = await locate(flags);
    const layers = archive.layers.map(({ table }, i) => ({ digest: archive.image.layers[i]!.digest, table }));
    const source = new CachedSpans(cacheDir, layers);
    return { source, close: () => source.close() };
  }
  const { openStorage } = await import('../../check/index.js');
  const source = await openStorage(archive, fd, accessOf(flags, archive), storageOverride(flags));
  return { source, close: () => source.close() };
}

/** How the registry, or S3, is reached. */
function accessOf(flags: Flags, { storage }: Pick<Archive, 'storage'>): StorageAccess {
  const credentials = credentialsFrom(flags);
  const { username = '', password = '' } = credentials ?? {};
  return {
    ...(credentials === undefined ? {} : { credentials }),
    ...(credentials === undefined || storage.kind !== 's3'
      ? {}
      : { s3: { accessKeyId: username, secretAccessKey: password } }),
    ...(flags.plainHttp === undefined ? {} : { plainHttp: flags.plainHttp }),
  };
}

/** The archive. Layers of an old one that were never indexed are indexed now: their spans are what is to be verified. */
async function openIndexed(clip: string, flags: Flags): Promise<ArchiveFile> {
  await indexOldLayers(clip, flags);
  const { ArchiveFile, LayerIndexes } = await import('../../check/index.js');
  const { cacheDir } = await locate(flags);
  return ArchiveFile.open(clip, new LayerIndexes(cacheDir));
}

function describeResult(path: string, result: VerifyResult, formatBytes: (bytes: number) => string): string {
  const { layers, spans, absent, compressedBytes, files, problems, wrongHashes } = result;
  const notes = wrongHashes.map((note) => `  note: ${note}, but its checksum is right`);
  const size = `${counted(layers, 'layer')}, ${counted(spans, 'span')} (${formatBytes(compressedBytes)})`;
  const hashed = files > 0 ? `, ${counted(files, 'file')}` : '';
  if (problems.length > 0) {
    const missing = absent > 0 ? `, ${absent} not cached` : '';
    return [
      ...notes,
      ...problems.map((problem) => `  ${problem}`),
      `${path}: ${size}${missing}${hashed}: ${counted(problems.length, 'problem')}`,
    ].join('\n');
  }
  if (absent === 0) return [...notes, `${path}: ${size}${hashed}: all as indexed`].join('\n');
  if (spans === 0) return `${path}: ${counted(absent, 'span')}, none cached: nothing was checked`;
  return [...notes, `${path}: ${size} of ${spans + absent} cached${hashed}: as indexed`].join('\n');
}

async function run(given: Flags): Promise<void> {
  const [{ verifyArchive }, { createProgress }, { formatBytes, shortDigest }] = await Promise.all([
    import('../../check/index.js'),
    import('../progress.js'),
    import('../units.js'),
  ]);
  const clip = await archiveOf(given);
  const flags = await withDataPlace(given, clip);
  const file = await openIndexed(clip, flags);
  const { archive } = file;
  const { source, close } = await openSource(archive, file.fd, flags);
  const progress = await createProgress();
  try {
    const result = await interruptible((signal) =>
      verifyArchive(archive, source, {
        signal,
        onProgress: ({ digest, done, total, rate }) => progress.update(digest, shortDigest(digest), done, total, rate),
      }).finally(() => progress.stop()),
    );
    if (result === undefined) return;
    const value = { path: file.path, identity: archive.identity, from: flags.from, ...result };
    const text = (): string => describeResult(file.path, result, formatBytes);
    if (result.problems.length === 0) {
      printResult(value, flags.json === true, text);
      return;
    }
    const error = failed(
      new ClipError('DIGEST_MISMATCH', `${clip} is not as indexed in ${counted(result.problems.length, 'place')}`, {
        hint:
          flags.from === 'cache'
            ? 'clipctl cache verify frees the damaged spans; mounts find and replace them by themselves'
            : archive.storage.kind === 'oci'
              ? 'the layers in the registry were altered: push the image again'
              : 'the archive is damaged: take it from its source again',
      }),
    );
    printFailedResult(value, error, flags.json === true, text);
    throw error;
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
    .addArgument(archiveOrImage())
    .addOption(
      new Option('--from <where>', 'check the spans of the registry, or those in the span cache')
        .choices(['registry', 'cache'])
        .default('registry'),
    );
  addStorageFlags(addImageFlags(command)).action((flags: Flags) => run(flags));
}
