import { DIRENT_SIZE, fileTypeOfMode } from './format.js';
import type { TreeSource } from './tree-source.js';

const DOT = 0x2e;
/** Used in place of a child's index. */
const SELF = -1;
const PARENT = -2;

/** Lays out directories: entries sorted, `.` and `..` among them, as many to a block as fit. */
export class DirectoryPacker {
  readonly #tree: TreeSource;
  readonly #blockSize: number;
  #entries = new Int32Array(64);
  #count = 0;

  constructor(tree: TreeSource, blockSize: number) {
    this.#tree = tree;
    this.#blockSize = blockSize;
  }

  #collect(directory: number): void {
    const tree = this.#tree;
    const start = tree.childStart(directory);
    const end = tree.childEnd(directory);
    if (end - start + 2 > this.#entries.length) this.#entries = new Int32Array((end - start + 2) * 2);
    let n = 0;
    let before = 0; // 0: neither "." nor ".." is out yet
    for (let child = start; child < end; child++) {
      if (before < 2) {
        const name = tree.childNameArena(child);
        const at = tree.childNameStart(child);
        // Bytes below '.' sort before it, and ".-" between "." and "..".
        const first = name[at]!;
        if (before === 0 && first >= DOT) {
          this.#entries[n++] = SELF;
          before = 1;
        }
        if (before === 1 && (first > DOT || name[at + 1]! >= DOT)) {
          this.#entries[n++] = PARENT;
          before = 2;
        }
      }
      this.#entries[n++] = child;
    }
    if (before === 0) this.#entries[n++] = SELF;
    if (before <= 1) this.#entries[n++] = PARENT;
    this.#count = n;
  }

  #nameLength(entry: number): number {
    return entry === SELF ? 1 : entry === PARENT ? 2 : this.#tree.childNameLength(entry);
  }

  /** i_size: whole blocks, and the used part of the last one. */
  size(directory: number): number {
    this.#collect(directory);
    let blocks = 0;
    let used = 0;
    for (let i = 0; i < this.#count; i++) {
      const need = DIRENT_SIZE + this.#nameLength(this.#entries[i]!);
      if (used + need > this.#blockSize) {
        blocks++;
        used = 0;
      }
      used += need;
    }
    return blocks * this.#blockSize + used;
  }

  /**
   * Writes the blocks: those before the last at `blocksAt`, the last at `lastAt`.
   * @param nidOf  nid by tree inode
   */
  write(
    directory: number,
    parent: number,
    nidOf: Uint32Array,
    image: Uint8Array,
    view: DataView,
    blocksAt: number,
    lastAt: number,
  ): void {
    this.#collect(directory);
    let from = 0;
    let at = blocksAt;
    while (from < this.#count) {
      let to = from;
      let used = 0;
      for (; to < this.#count; to++) {
        const need = DIRENT_SIZE + this.#nameLength(this.#entries[to]!);
        if (used + need > this.#blockSize) break;
        used += need;
      }
      this.#writeBlock(from, to, directory, parent, nidOf, image, view, to === this.#count ? lastAt : at);
      at += this.#blockSize;
      from = to;
    }
  }

  #writeBlock(
    from: number,
    to: number,
    directory: number,
    parent: number,
    nidOf: Uint32Array,
    image: Uint8Array,
    view: DataView,
    at: number,
  ): void {
    const tree = this.#tree;
    let name = (to - from) * DIRENT_SIZE;
    for (let i = from, dirent = at; i < to; i++, dirent += DIRENT_SIZE) {
      const entry = this.#entries[i]!;
      const inode = entry === SELF ? directory : entry === PARENT ? parent : tree.childInode(entry);
      view.setUint32(dirent, nidOf[inode]!, true);
      view.setUint16(dirent + 8, name, true);
      image[dirent + 10] = fileTypeOfMode(tree.mode(inode));
      if (entry === SELF || entry === PARENT) {
        image[at + name++] = DOT;
        if (entry === PARENT) image[at + name++] = DOT;
      } else {
        const arena = tree.childNameArena(entry);
        const start = tree.childNameStart(entry);
        const end = start + tree.childNameLength(entry);
        for (let b = start; b < end; b++) image[at + name++] = arena[b]!;
      }
    }
  }
}
