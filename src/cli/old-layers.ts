import { closeSync, constants, openSync, readSync } from 'node:fs';
import { locate } from './daemon-flags.js';
import type { ImageFlags } from './image-flags.js';
import { needsOwnProcess } from './own-process.js';
import { credentialsFrom } from './registry-flags.js';
import { type StorageFlags, storageOverride } from './storage-flags.js';

/** The magic and the version; those of version 1 are told without loading what reads archives. */
const VERSION_AT = 9;

function isVersion1(path: string): boolean {
  let fd: number;
  try {
    // A FIFO does not keep the command waiting: it has nothing to read.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return false; // the command says why when it opens the archive
  }
  try {
    const head = Buffer.alloc(VERSION_AT + 1);
    return readSync(fd, head, 0, head.length, 0) === head.length && head[VERSION_AT] === 1;
  } catch {
    return false;
  } finally {
    closeSync(fd);
  }
}

/**
 * Layers of an old archive of an image that were never indexed are indexed now, with progress: each is read as a whole. clipd would do it
 * in the mount, without a word.
 */
export async function indexOldLayers(
  archivePath: string,
  flags: ImageFlags & StorageFlags,
  signal?: AbortSignal,
): Promise<void> {
  if (!isVersion1(archivePath)) return;
  needsOwnProcess();
  const { LayerIndexes, openImage, unindexedLayers } = await import('../check/index.js');
  const { cacheDir } = await locate(flags);
  const missing = unindexedLayers(archivePath, new LayerIndexes(cacheDir));
  if (missing === null) return;
  const [{ createProgress }, { shortDigest }] = await Promise.all([import('./progress.js'), import('./units.js')]);
  const credentials = credentialsFrom(flags);
  const access = {
    ...(credentials === undefined ? {} : { credentials }),
    ...(flags.plainHttp === undefined ? {} : { plainHttp: flags.plainHttp }),
  };
  const source = await openImage(missing.image, access, storageOverride(flags));
  const progress = await createProgress();
  try {
    await new LayerIndexes(cacheDir).make(missing.image, missing.digests, source, {
      signal,
      onProgress: ({ digest, done, total, rate }) => progress.update(digest, shortDigest(digest), done, total, rate),
    });
  } finally {
    progress.stop();
    await source.close();
  }
}
