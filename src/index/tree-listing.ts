import { type ErofsReader, InodeView, resolvePath } from '../erofs/index.js';

/** The directories of a tree by path, listed once. Names are latin1: whatever bytes they are. */
export class TreeListing {
  readonly #reader: ErofsReader;
  readonly #inode = new InodeView();
  readonly #directories = new Map<string, ReadonlyMap<string, number> | null>();
  readonly #resolved = new Map<string, number>();

  constructor(reader: ErofsReader) {
    this.#reader = reader;
  }

  /** The names in a directory and their nids; null for what is none. Symlinks on the way are followed. */
  list(path: string): ReadonlyMap<string, number> | null {
    const known = this.#directories.get(path);
    if (known !== undefined) return known;
    const nid = resolvePath(this.#reader, Buffer.from(path, 'latin1'), true);
    let found: Map<string, number> | null = null;
    if (nid >= 0) {
      this.#reader.inode(nid, this.#inode);
      if (this.#inode.isDirectory) {
        const names = new Map<string, number>();
        const { image } = this.#reader;
        const view = Buffer.from(image.buffer, image.byteOffset, image.length);
        this.#reader.readdir(nid, 0, (child, _type, start, end) => {
          names.set(view.toString('latin1', start, end), child);
          return true;
        });
        found = names;
      }
    }
    this.#directories.set(path, found);
    return found;
  }

  /** The regular file at a path, symlinks followed; -1 when there is none. */
  resolve(path: string): number {
    const known = this.#resolved.get(path);
    if (known !== undefined) return known;
    let nid = resolvePath(this.#reader, Buffer.from(path, 'latin1'), true);
    if (nid >= 0) {
      this.#reader.inode(nid, this.#inode);
      if (!this.#inode.isFile) nid = -1;
    }
    this.#resolved.set(path, nid);
    return nid;
  }
}
