import { closeSync, fstatSync } from 'node:fs';
import { type Archive, type ArchiveInput, type OpenOptions, openArchive, readDigest } from '../archive/index.js';
import { FormatError } from '../bytes/index.js';
import { HEADER_SIZE, isLegacyHeader, openLegacyArchive } from '../legacy/index.js';
import { archiveInput, openArchiveFile } from './archive-input.js';
import type { LayerIndexes } from './layer-indexes.js';

/** Equal for two descriptors of the same unchanged file. Reads only its attributes. */
function fileKey(fd: number): string {
  const { dev, ino, size, mtimeNs, ctimeNs } = fstatSync(fd, { bigint: true });
  return [dev, ino, size, mtimeNs, ctimeNs].join(':');
}

function inodeOf(fd: number): string {
  const { dev, ino } = fstatSync(fd, { bigint: true });
  return `${dev}:${ino}`;
}

/** Opens an archive of any version. `indexes` knows layers that version 1 archives are of. @throws FormatError */
function openAnyArchive(input: ArchiveInput, indexes: LayerIndexes | null = null, options: OpenOptions = {}): Archive {
  if (!isLegacyHeader(input.readAt(0, Math.min(HEADER_SIZE, input.size)))) return openArchive(input, options);
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
  readonly #inode: string;
  readonly #indexes: LayerIndexes | null;
  readonly #onClose: () => void;

  /**
   * Opens and checks an archive by path.
   * @throws FormatError when it is damaged; ClipError NOT_FOUND, PERMISSION, SYSTEM, BAD_FORMAT
   */
  static open(path: string, indexes: LayerIndexes | null = null): ArchiveFile {
    return new ArchiveFile(openArchiveFile(path), path, indexes);
  }

  /**
   * Takes the descriptor over; it is closed when the archive is refused.
   * @param onClose called when an archive that was opened is closed
   * @throws FormatError when the archive is damaged; ClipError BAD_FORMAT when it is not a file
   */
  constructor(
    fd: number,
    path: string,
    indexes: LayerIndexes | null = null,
    onClose: () => void = () => {},
    options: OpenOptions = {},
  ) {
    this.#indexes = indexes;
    this.#onClose = onClose;
    this.fd = fd;
    this.path = path;
    this.key = fileKey(fd);
    this.#inode = inodeOf(fd);
    try {
      const input = archiveInput(fd, path);
      this.size = input.size;
      this.archive = openAnyArchive(input, indexes, options);
    } catch (error) {
      closeSync(fd);
      indexes?.close();
      throw error;
    }
  }

  /**
   * Whether one mount can serve both: they are the same file, and hold the same archive. An equal archive in another file is not
   * enough, because its checkpoint states, and the data of version 1, are what the owner of that file makes of them at any moment.
   */
  isSame(other: ArchiveFile): boolean {
    return other.#inode === this.#inode && other.archive.digest === this.archive.digest;
  }

  /**
   * The same of an open file, without opening its archive: it has not been touched, or its header says that it holds what this one does. Each
   * use of a stored archive touches it (its time of last use).
   */
  isIn(fd: number): boolean {
    if (fileKey(fd) === this.key) return true;
    if (inodeOf(fd) !== this.#inode) return false;
    try {
      return readDigest(archiveInput(fd, this.path)) === this.archive.digest;
    } catch (error) {
      if (error instanceof FormatError) return false; // version 1, or damaged: opening it says more
      throw error;
    }
  }

  close(): void {
    this.#indexes?.close();
    closeSync(this.fd);
    this.#onClose();
  }
}
