import { closeSync, fstatSync, readSync } from 'node:fs';
import { type ArchiveInput, type ImageMeta, readImageMeta } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { HEADER_SIZE, isLegacyHeader, type LegacyOrigin, readLegacyOrigin } from '../legacy/index.js';
import { openRegularFile } from '../paths/index.js';

/**
 * Reads from an archive what image it is of, and nothing else: a tenth of what opening it takes.
 * @throws FormatError when it is damaged; ClipError NOT_FOUND, PERMISSION
 */
export function readArchiveImage(path: string): ImageMeta {
  return readArchiveOrigin(path).image;
}

/** The same, and where the data of the archive is kept. */
export function readArchiveOrigin(path: string): LegacyOrigin {
  let fd: number;
  try {
    fd = openRegularFile(path);
  } catch (cause) {
    if (cause instanceof ClipError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    throw new ClipError(code === 'ENOENT' ? 'NOT_FOUND' : 'PERMISSION', `archive ${path}: ${code}`, {
      cause,
      hint: 'clipctl index --image REF --out FILE makes one',
    });
  }
  try {
    const input: ArchiveInput = {
      name: path,
      size: fstatSync(fd).size,
      readAt: (offset, length) => {
        const buffer = Buffer.alloc(length);
        return buffer.subarray(0, readSync(fd, buffer, 0, length, offset));
      },
    };
    if (isLegacyHeader(input.readAt(0, HEADER_SIZE))) return readLegacyOrigin(input);
    return { storage: { kind: 'oci' }, image: readImageMeta(input) };
  } finally {
    closeSync(fd);
  }
}
