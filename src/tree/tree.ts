import { S_IFCHR, S_IFDIR, S_IFMT } from '../tar/index.js';
import { startsWith } from './path.js';
import { IMPLICIT, NONE, type TreeStore } from './store.js';

/** Counts of directories, and of things left out of the tree on purpose. */
export interface TreeStats {
  readonly directories: number;
  /** Attributes trusted.overlay.* and user.overlay.*: they would steer an overlayfs on top. */
  overlayXattrs: number;
  /** Character devices 0:0: overlayfs takes them for whiteouts. */
  readonly whiteoutDevices: number;
  /** Entries other than directories whose path is the root: an empty name, ".", "/". */
  readonly namelessEntries: number;
}

const OVERLAY_PREFIXES = ['trusted.overlay.', 'user.overlay.'].map((prefix) => Buffer.from(prefix, 'latin1'));
const EMPTY = new Uint8Array(0);

/**
 * The merged tree: inodes and names by number, sorted children. A view over the layers' columns; nothing is copied.
 * Inode numbers here are not dense: replaced files leave gaps.
 */
export class Tree {
  readonly root: number;
  /** Inode numbers are below this. */
  readonly inodeLimit: number;
  readonly stats: TreeStats;
  readonly #store: TreeStore;
  /** Dentries, directory by directory, each sorted bytewise by name. */
  readonly #children: Uint32Array;
  readonly #childStart: Uint32Array;
  readonly #childCount: Uint32Array;

  constructor(store: TreeStore, root: number, namelessEntries: number) {
    this.#store = store;
    this.root = root;
    this.inodeLimit = store.inodeCount;
    this.#childStart = new Uint32Array(store.inodeCount);
    this.#childCount = new Uint32Array(store.inodeCount);
    this.#children = new Uint32Array(store.dentryCount);
    let used = 0;
    let devices = 0;
    let directories = 0;
    const queue = [root];
    for (let directory = queue.pop(); directory !== undefined; directory = queue.pop()) {
      const start = used;
      let subdirectories = 0;
      for (let dentry = store.inodeFirstChild[directory]!; dentry !== NONE; dentry = store.dentrySibling[dentry]!) {
        const inode = store.dentryInode[dentry]!;
        if (inode === NONE) continue;
        const type = store.mode(inode) & S_IFMT;
        if (type === S_IFCHR && this.rdev(inode) === 0) {
          devices++;
          continue;
        }
        if (type === S_IFDIR) {
          subdirectories++;
          queue.push(inode);
        }
        this.#children[used++] = dentry;
      }
      sortByName(store, this.#children.subarray(start, used));
      this.#childStart[directory] = start;
      this.#childCount[directory] = used - start;
      store.inodeLinks[directory] = 2 + subdirectories;
      directories++;
    }
    this.stats = {
      directories,
      overlayXattrs: 0,
      whiteoutDevices: devices,
      namelessEntries,
    };
  }

  /** A directory's children are child(childStart) … child(childEnd - 1), sorted bytewise by name. */
  childStart(directory: number): number {
    return this.#childStart[directory]!;
  }
  childEnd(directory: number): number {
    return this.#childStart[directory]! + this.#childCount[directory]!;
  }
  childInode(index: number): number {
    return this.#store.dentryInode[this.#children[index]!]!;
  }
  childNameArena(index: number): Uint8Array {
    return this.#store.layers[this.#store.dentryLayer[this.#children[index]!]!]!.arena;
  }
  childNameStart(index: number): number {
    return this.#store.dentryNameStart[this.#children[index]!]!;
  }
  childNameLength(index: number): number {
    return this.#store.dentryNameLength[this.#children[index]!]!;
  }

  mode(inode: number): number {
    return this.#store.mode(inode);
  }
  isDirectory(inode: number): boolean {
    return this.#store.isDirectory(inode);
  }
  nlink(inode: number): number {
    return this.#store.inodeLinks[inode]!;
  }
  /** The layer whose entry describes the inode, and holds its data; -1 for a directory that no layer names. */
  layer(inode: number): number {
    const layer = this.#store.inodeLayer[inode]!;
    return layer === IMPLICIT ? -1 : layer;
  }
  /** Index of that entry in its layer's EntryColumns; 0 where layer() is -1. */
  entry(inode: number): number {
    return this.#store.inodeEntry[inode]!;
  }
  uid(inode: number): number {
    const layer = this.#store.inodeLayer[inode]!;
    return layer === IMPLICIT ? 0 : this.#store.layers[layer]!.uid(this.#store.inodeEntry[inode]!);
  }
  gid(inode: number): number {
    const layer = this.#store.inodeLayer[inode]!;
    return layer === IMPLICIT ? 0 : this.#store.layers[layer]!.gid(this.#store.inodeEntry[inode]!);
  }
  mtime(inode: number): number {
    const layer = this.#store.inodeLayer[inode]!;
    return layer === IMPLICIT ? 0 : this.#store.layers[layer]!.mtime(this.#store.inodeEntry[inode]!);
  }
  mtimeNsec(inode: number): number {
    const layer = this.#store.inodeLayer[inode]!;
    return layer === IMPLICIT ? 0 : this.#store.layers[layer]!.mtimeNsec(this.#store.inodeEntry[inode]!);
  }
  /** Of regular files. */
  size(inode: number): number {
    const layer = this.#store.inodeLayer[inode]!;
    return layer === IMPLICIT ? 0 : this.#store.layers[layer]!.size(this.#store.inodeEntry[inode]!);
  }
  rdev(inode: number): number {
    const layer = this.#store.inodeLayer[inode]!;
    return layer === IMPLICIT ? 0 : this.#store.layers[layer]!.rdev(this.#store.inodeEntry[inode]!);
  }
  dataOffset(inode: number): number {
    return this.#store.layers[this.#store.inodeLayer[inode]!]!.dataOffset(this.#store.inodeEntry[inode]!);
  }
  extents(inode: number): Float64Array | null {
    return this.#store.layers[this.#store.inodeLayer[inode]!]!.extents(this.#store.inodeEntry[inode]!);
  }
  symlinkLength(inode: number): number {
    const entries = this.#store.layers[this.#store.inodeLayer[inode]!]!;
    const entry = this.#store.inodeEntry[inode]!;
    return entries.linkEnd(entry) - entries.linkStart(entry);
  }
  symlink(inode: number): Uint8Array {
    const layer = this.#store.inodeLayer[inode]!;
    if (layer === IMPLICIT) return EMPTY;
    const entries = this.#store.layers[layer]!;
    const entry = this.#store.inodeEntry[inode]!;
    return entries.arena.subarray(entries.linkStart(entry), entries.linkEnd(entry));
  }

  /** Sorted by name, without overlayfs's own, which are counted in `stats` each time they are asked for. */
  xattrs(inode: number): { name: Uint8Array; value: Uint8Array }[] {
    const layer = this.#store.inodeLayer[inode]!;
    if (layer === IMPLICIT) return [];
    const entries = this.#store.layers[layer]!;
    const entry = this.#store.inodeEntry[inode]!;
    if (!entries.hasXattrs(entry)) return [];
    const all = entries.xattrs(entry);
    const kept = all.filter(({ name }) => !OVERLAY_PREFIXES.some((prefix) => startsWith(name, 0, name.length, prefix)));
    this.stats.overlayXattrs += all.length - kept.length;
    return kept;
  }
}

/** Below this many names insertion sort beats the engine's sort, which copies to an array and back. */
const SMALL = 12;

function sortByName(store: TreeStore, dentries: Uint32Array): void {
  const compare = (a: number, b: number): number => {
    const aBytes = store.layers[store.dentryLayer[a]!]!.arena;
    const bBytes = store.layers[store.dentryLayer[b]!]!.arena;
    let i = store.dentryNameStart[a]!;
    let j = store.dentryNameStart[b]!;
    const aEnd = i + store.dentryNameLength[a]!;
    const bEnd = j + store.dentryNameLength[b]!;
    for (; i < aEnd && j < bEnd; i++, j++) {
      const order = aBytes[i]! - bBytes[j]!;
      if (order !== 0) return order;
    }
    return aEnd - i - (bEnd - j);
  };
  if (dentries.length > SMALL) {
    // Siblings are linked newest first, and tars are mostly in order.
    dentries.reverse().sort(compare);
    return;
  }
  for (let i = 1; i < dentries.length; i++) {
    const dentry = dentries[i]!;
    let j = i;
    for (; j > 0 && compare(dentries[j - 1]!, dentry) > 0; j--) dentries[j] = dentries[j - 1]!;
    dentries[j] = dentry;
  }
}
