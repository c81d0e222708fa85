import { closeSync, fstatSync, readSync } from 'node:fs';
import { type Archive, openArchive } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';

/** Tells whether two descriptors are the same unchanged file, without reading it. */
export function fileKey(fd: number): string {
  const { dev, ino, size, mtimeNs, ctimeNs } = fstatSync(fd, { bigint: true });
  return [dev, ino, size, mtimeNs, ctimeNs].join(':');
}

/** An open archive and its descriptor, which outlives the file's name. */
export class ArchiveFile {
  readonly archive: Archive;
  readonly fd: number;
  readonly key: string;

  /** Takes the descriptor over. @throws FormatError when the archive is damaged; the descriptor is then closed */
  constructor(fd: number, path: string) {
    this.fd = fd;
    this.key = fileKey(fd);
    try {
      const stat = fstatSync(fd);
      if (!stat.isFile()) {
        throw new ClipError('BAD_FORMAT', `${path} is not a file`, {
          hint: 'give a .clip archive: clipctl index makes one',
        });
      }
      this.archive = openArchive({
        name: path,
        size: stat.size,
        readAt: (offset, length) => readAt(fd, offset, length),
      });
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  close(): void {
    closeSync(this.fd);
  }
}

/** Exactly `length` bytes, or fewer at the end of the file. */
function readAt(fd: number, offset: number, length: number): Uint8Array {
  const buffer = Buffer.allocUnsafeSlow(length);
  let filled = 0;
  while (filled < length) {
    const count = readSync(fd, buffer, filled, length - filled, offset + filled);
    if (count === 0) break;
    filled += count;
  }
  return buffer.subarray(0, filled);
}
