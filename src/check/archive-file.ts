import { closeSync, fstatSync, readSync } from 'node:fs';
import { type Archive, type ArchiveInput, openArchive } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { HEADER_SIZE, isLegacyHeader, openLegacyArchive } from '../legacy/index.js';
import { openRegularFile } from '../paths/index.js';
import type { LayerIndexes } from './layer-indexes.js';

/** Equal for two descriptors of the same unchanged file. Reads only its attributes. */
export function fileKey(fd: number): string {
  const { dev, ino, size, mtimeNs, ctimeNs } = fstatSync(fd, { bigint: true });
  return [dev, ino, size, mtimeNs, ctimeNs].join(':');
}

/** Opens an archive of any version. `indexes` knows layers that version 1 archives are of. @throws FormatError */
export function openAnyArchive(input: ArchiveInput, indexes: LayerIndexes | null = null): Archive {
  if (!isLegacyHeader(input.readAt(0, Math.min(HEADER_SIZE, input.size)))) return openArchive(input);
  return openLegacyArchive(input, (digest) => indexes?.get(digest) ?? null, indexes?.trees ?? null);
}

/**
 * A checked archive and the descriptor of its file, which stays open because checkpoint states are read one at a time. An
 * open archive stays readable when its file is replaced by rename, as clip does.
 */
export class ArchiveFile {
  readonly archive: Archive;
  readonly path: string;
  readonly size: number;
  readonly fd: number;
  readonly key: string;
  readonly #indexes: LayerIndexes | null;

  /**
   * Opens and checks an archive by path.
   * @throws FormatError when it is damaged; ClipError NOT_FOUND, PERMISSION, SYSTEM, BAD_FORMAT
   */
  static open(path: string, indexes: LayerIndexes | null = null): ArchiveFile {
    let fd: number;
    try {
      fd = openRegularFile(path);
    } catch (cause) {
      if (cause instanceof ClipError) throw cause;
      const { code } = cause as NodeJS.ErrnoException;
      if (code === 'ENOENT') {
        throw new ClipError('NOT_FOUND', `no archive ${path}`, {
          cause,
          hint: 'make one with: clipctl index --image REF --out FILE',
        });
      }
      throw new ClipError(code === 'EACCES' ? 'PERMISSION' : 'SYSTEM', `cannot open archive ${path}: ${code}`, {
        cause,
      });
    }
    return new ArchiveFile(fd, path, indexes);
  }

  /**
   * Takes the descriptor over; it is closed when the archive is refused.
   * @throws FormatError when the archive is damaged; ClipError BAD_FORMAT when it is not a file
   */
  constructor(fd: number, path: string, indexes: LayerIndexes | null = null) {
    this.#indexes = indexes;
    this.fd = fd;
    this.path = path;
    this.key = fileKey(fd);
    try {
      const stat = fstatSync(fd);
      if (!stat.isFile()) {
        throw new ClipError('BAD_FORMAT', `${path} is not a file`, {
          hint: 'give a .clip archive: clipctl index makes one',
        });
      }
      this.size = stat.size;
      const readAt = (offset: number, length: number): Uint8Array => this.#read(offset, length);
      this.archive = openAnyArchive({ name: path, size: stat.size, readAt }, indexes);
    } catch (error) {
      closeSync(fd);
      indexes?.close();
      throw error;
    }
  }

  close(): void {
    this.#indexes?.close();
    closeSync(this.fd);
  }

  /** Exactly `length` bytes, or fewer at the end of the file. */
  #read(offset: number, length: number): Uint8Array {
    const bytes = Buffer.allocUnsafeSlow(Math.max(0, Math.min(length, this.size - offset)));
    let done = 0;
    while (done < bytes.length) {
      const count = readSync(this.fd, bytes, done, bytes.length - done, offset + done);
      if (count === 0) break;
      done += count;
    }
    return bytes.subarray(0, done);
  }
}
