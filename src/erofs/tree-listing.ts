import { FT, fileTypeOfMode, NID_UNIT } from './format.js';
import { InodeView } from './inode.js';
import type { ErofsReader } from './reader.js';
import { resolvePath } from './tree-path.js';

/** Longer paths exist in a tar only, and are not listed, so that recursion stays bounded. */
const MAX_PATH = 4096;

/** The directories of a tree by path, each listed once. Names are latin1 strings of arbitrary bytes. */
export class TreeListing {
  readonly #reader: ErofsReader;
  readonly #bytes: Buffer;
  readonly #inode = new InodeView();
  readonly #directories = new Map<string, ReadonlyMap<string, number> | null>();
  /** By nid: the type in the directory entry that was listed; 0 for one that was not. */
  readonly #types: Uint8Array;
  readonly #resolved = new Map<string, number>();

  constructor(reader: ErofsReader) {
    this.#reader = reader;
    const { image } = reader;
    this.#bytes = Buffer.from(image.buffer, image.byteOffset, image.length);
    this.#types = new Uint8Array(Math.ceil(image.length / NID_UNIT));
  }

  /** The names in a directory and their nids; null for a path that is no directory. Symlinks on the way are followed. */
  list(path: string): ReadonlyMap<string, number> | null {
    const known = this.#directories.get(path);
    if (known !== undefined) return known;
    const nid = this.#find(path);
    let found: Map<string, number> | null = null;
    if (nid >= 0) {
      if (this.#typeOf(nid) === FT.directory) {
        const names = new Map<string, number>();
        this.#reader.readdir(nid, 0, (child, type, start, end) => {
          names.set(this.#bytes.toString('latin1', start, end), child);
          this.#types[child] = type;
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
    let nid = this.#find(path);
    if (nid >= 0 && this.#typeOf(nid) !== FT.regular) nid = -1;
    this.#resolved.set(path, nid);
    return nid;
  }

  /** The regular file of a name in a directory, whose names `list` gave; -1 when there is none. */
  fileIn(directory: string, names: ReadonlyMap<string, number>, name: string): number {
    const nid = names.get(name);
    if (nid === undefined) return -1;
    const type = this.#typeOf(nid);
    if (type === FT.symlink) return this.resolve(`${directory === '/' ? '' : directory}/${name}`);
    return type === FT.regular ? nid : -1;
  }

  #typeOf(nid: number): number {
    const known = this.#types[nid] ?? 0;
    if (known !== 0) return known;
    this.#reader.inode(nid, this.#inode);
    return fileTypeOfMode(this.#inode.mode);
  }

  /** Bytes of a file. */
  size(nid: number): number {
    this.#reader.inode(nid, this.#inode);
    return this.#inode.size;
  }

  /** The inode at a path, symlinks followed, looked up in the listing of its directory unless it is a directory itself. */
  #find(path: string): number {
    const slash = path.lastIndexOf('/');
    if (slash >= 0 && slash < path.length - 1 && path.length <= MAX_PATH) {
      const nid = this.list(slash === 0 ? '/' : path.slice(0, slash))?.get(path.slice(slash + 1)) ?? -1;
      if (nid < 0) return -1;
      if (this.#typeOf(nid) !== FT.symlink) return nid;
    }
    return resolvePath(this.#reader, Buffer.from(path, 'latin1'), true);
  }
}
