import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { access, open, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { ClipError } from '../bytes/index.js';

/** What keeps a file from being written, and what to do about it. */
const REASONS: Readonly<Record<string, readonly [why: string, hint?: string]>> = {
  ENOENT: ['its directory does not exist'],
  ENOTDIR: ['what should be its directory is a file', 'give a path in a directory'],
  ENOSPC: ['the disk is full', 'free some of it, or give a path on another disk'],
  EROFS: ['the file system is read-only', 'give a path on another one'],
  EACCES: ['permission denied', 'give a path in a directory that you may write to'],
};

function systemError(path: string, cause: unknown): ClipError {
  const { code = '', message } = cause as NodeJS.ErrnoException;
  const [why, general] = REASONS[code] ?? [code || message];
  const hint = code === 'ENOENT' ? `mkdir -p ${dirname(path)}` : general;
  const kind = code === 'EACCES' || code === 'EPERM' ? 'PERMISSION' : 'SYSTEM';
  return new ClipError(kind, `cannot write ${path}: ${why}`, { cause, hint });
}

/** Says at once what would otherwise be found out after minutes of work. */
export async function checkWritable(path: string): Promise<void> {
  // An unset variable in a script, most likely.
  if (path === '') throw new ClipError('USAGE', 'the path of the archive to write is empty', { hint: 'give a file' });
  try {
    // The slash: a file in the directory's place is ENOTDIR.
    await access(`${dirname(path)}/`, constants.W_OK);
  } catch (cause) {
    throw systemError(path, cause);
  }
  const existing = await stat(path).catch(() => null);
  if (existing !== null && !existing.isFile()) {
    throw new ClipError('SYSTEM', `cannot write ${path}: it exists and is not a regular file`, {
      hint: 'give the path of a file',
    });
  }
}

/**
 * Writes a file that appears whole or not at all: under a temporary name beside it, synced, then renamed. Whatever goes wrong,
 * the temporary file goes away and `path` is as before.
 */
export async function writeFileByRename(
  path: string,
  parts: readonly Uint8Array[],
  signal?: AbortSignal,
): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`);
  try {
    const file = await open(temporary, 'wx', 0o644);
    try {
      // writev takes at most IOV_MAX (1024) parts, and an archive has one part for each window.
      await file.writeFile(Buffer.concat(parts));
      signal?.throwIfAborted();
      await file.datasync();
    } finally {
      await file.close();
    }
    signal?.throwIfAborted();
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => {}); // the first error is the one to tell
    if (signal?.aborted) throw cause;
    throw systemError(path, cause);
  }
}
