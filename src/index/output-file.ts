import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { access, open, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { ClipError } from '../bytes/index.js';

/** By errno: the reason why a file cannot be written, and the remedy. */
const REASONS: Readonly<Record<string, readonly [why: string, hint?: string]>> = {
  ENOENT: ['its directory does not exist'],
  ENOTDIR: ['a part of its path is a file, not a directory', 'give a path in a directory'],
  ENOSPC: ['the disk is full', 'free space, or give a path on another disk'],
  EROFS: ['the file system is read-only', 'give a path on another file system'],
  EACCES: ['permission denied', 'give a path in a directory that you may write to'],
};

function systemError(path: string, cause: unknown): ClipError {
  const { code = '', message } = cause as NodeJS.ErrnoException;
  const [why, general] = REASONS[code] ?? [code || message];
  const hint = code === 'ENOENT' ? `mkdir -p ${dirname(path)}` : general;
  const kind = code === 'EACCES' || code === 'EPERM' ? 'PERMISSION' : code === 'ENOENT' ? 'NOT_FOUND' : 'SYSTEM';
  return new ClipError(kind, `cannot write ${path}: ${why}`, { cause, hint });
}

/** Finds out before minutes of work whether the file can be written. */
export async function checkWritable(path: string): Promise<void> {
  // An unset variable in a script, most likely.
  if (path === '') throw new ClipError('USAGE', 'the path of the archive to write is empty', { hint: 'give a file' });
  try {
    // With the slash, a file in the place of the directory gives ENOTDIR.
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
 * Writes a file that appears whole or not at all: under a temporary name beside it, synced, then renamed. After a failure the
 * temporary file is removed and `path` is unchanged.
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
      for (const bytes of gathered(parts)) await file.writeFile(bytes); // each goes on where the last one ended
      signal?.throwIfAborted();
      await file.datasync();
    } finally {
      await file.close();
    }
    signal?.throwIfAborted();
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => {}); // the first error is reported
    if (signal?.aborted) throw cause;
    throw systemError(path, cause);
  }
}

/** An archive has a small part for each window, and may be too large to be copied as a whole. */
const WRITE_BYTES = 4 * 1024 * 1024;

function* gathered(parts: readonly Uint8Array[]): Iterable<Uint8Array> {
  let from = 0;
  for (let bytes = 0, end = 0; end < parts.length; ) {
    bytes += parts[end++]!.length;
    if (bytes < WRITE_BYTES && end < parts.length) continue;
    yield end - from === 1 ? parts[from]! : Buffer.concat(parts.slice(from, end));
    from = end;
    bytes = 0;
  }
}
