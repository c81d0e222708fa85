import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { type Archive, openArchive } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';

/** An archive on disk. Its file stays open, for checkpoint states are read one at a time. */
export interface ArchiveFile {
  readonly archive: Archive;
  readonly path: string;
  readonly size: number;
  close(): void;
}

/**
 * Opens and checks an archive. An open archive stays readable when its file is replaced (by rename, as clip does).
 * @throws FormatError when it is damaged; ClipError NOT_FOUND, PERMISSION, SYSTEM
 */
export function openArchiveFile(path: string): ArchiveFile {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') {
      throw new ClipError('NOT_FOUND', `no archive ${path}`, {
        cause,
        hint: 'make one with: clipctl index --image REF --out FILE',
      });
    }
    throw new ClipError(code === 'EACCES' ? 'PERMISSION' : 'SYSTEM', `cannot open archive ${path}: ${code}`, { cause });
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new ClipError('SYSTEM', `cannot open archive ${path}: not a regular file`);
    const { size } = stat;
    const readAt = (offset: number, length: number): Uint8Array => {
      const bytes = new Uint8Array(Math.max(0, Math.min(length, size - offset)));
      let done = 0;
      while (done < bytes.length) {
        const n = readSync(fd, bytes, done, bytes.length - done, offset + done);
        if (n === 0) break;
        done += n;
      }
      return bytes.subarray(0, done);
    };
    return { archive: openArchive({ name: path, size, readAt }), path, size, close: () => closeSync(fd) };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}
