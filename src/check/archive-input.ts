import { closeSync, fstatSync, readSync } from 'node:fs';
import type { ArchiveInput } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { missingArchive, openRegularFile } from '../paths/index.js';

/** @throws ClipError NOT_FOUND, PERMISSION, SYSTEM, BAD_FORMAT when the path leads to something else than a file */
export function openArchiveFile(path: string): number {
  try {
    return openRegularFile(path);
  } catch (cause) {
    if (cause instanceof ClipError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw missingArchive(path, cause);
    throw new ClipError(code === 'EACCES' ? 'PERMISSION' : 'SYSTEM', `cannot open archive ${path}: ${code}`, { cause });
  }
}

/**
 * An archive as the reader takes it. The descriptor stays the caller's.
 * @throws ClipError BAD_FORMAT when it is no regular file
 */
export function archiveInput(fd: number, path: string): ArchiveInput {
  const stat = fstatSync(fd);
  if (!stat.isFile()) {
    throw new ClipError('BAD_FORMAT', `${path} is not a file`, {
      hint: 'give a .clip archive: clipctl index makes one',
    });
  }
  return {
    name: path,
    size: stat.size,
    readAt: (offset, length) => readUpTo(fd, offset, Math.min(length, stat.size - offset)),
  };
}

/** Exactly `length` bytes, or fewer when the file was cut off since. */
function readUpTo(fd: number, offset: number, length: number): Uint8Array {
  const bytes = Buffer.allocUnsafeSlow(Math.max(0, length));
  let done = 0;
  while (done < bytes.length) {
    const count = readSync(fd, bytes, done, bytes.length - done, offset + done);
    if (count === 0) break;
    done += count;
  }
  return bytes.subarray(0, done);
}

/** Opens an archive for one reading, and closes it. @throws as {@link openArchiveFile} and `read` do */
export function withArchiveInput<T>(path: string, read: (input: ArchiveInput) => T): T {
  const fd = openArchiveFile(path);
  try {
    return read(archiveInput(fd, path));
  } finally {
    closeSync(fd);
  }
}
