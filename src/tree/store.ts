import type { LayerIndex } from '../bytes/index.js';
import type { EntryColumns } from '../tar/index.js';
import { S_IFDIR, S_IFMT } from '../tar/index.js';

/** "No dentry", "no inode". */
export const NONE = 0xffff_ffff;
/** The layer of an inode that no entry describes: a directory that had to be made. */
export const IMPLICIT = 0xffff;
/** Mode of such a directory; its owner is 0:0 and its mtime 0 (docs/architecture.md, "The tree is an EROFS image"). */
const IMPLICIT_MODE = S_IFDIR | 0o755;

/**
 * Names and inodes as columns: 28 and 18 bytes each. Everything else about them stays in the layers' EntryColumns: a dentry's
 * name is a range of its layer's arena, and an inode points to the entry that describes it.
 */
export class TreeStore {
  readonly layers: EntryColumns[] = [];

  dentryCount = 0;
  /** The directory's inode. */
  dentryParent = new Uint32Array(64);
  /** NONE: the dentry was removed. */
  dentryInode = new Uint32Array(64);
  /** The layer that made or last claimed this name: its arena holds the name. */
  dentryLayer = new Uint16Array(64);
  dentryNameStart = new Uint32Array(64);
  dentryNameLength = new Uint8Array(64);
  /** The next dentry of the same directory, removed ones among them. */
  dentrySibling = new Uint32Array(64);
  #dentryHash = new Uint32Array(64);
  #dentryChain = new Uint32Array(64);
  #buckets = new Uint32Array(128).fill(NONE);

  inodeCount = 0;
  inodeLayer = new Uint16Array(64);
  inodeEntry = new Uint32Array(64);
  /** Number of names of a file. The constructor of Tree sets that of directories. */
  inodeLinks = new Uint32Array(64);
  inodeFirstChild = new Uint32Array(64);
  /** 1 + the last layer with an entry in this directory. */
  inodeTouched = new Uint16Array(64);

  addInode(layer: LayerIndex, entry: number): number {
    const inode = this.inodeCount++;
    if (inode === this.inodeLayer.length) this.#growInodes(inode * 2);
    this.inodeLayer[inode] = layer;
    this.inodeEntry[inode] = entry;
    this.inodeFirstChild[inode] = NONE;
    return inode;
  }

  #growInodes(size: number): void {
    this.inodeLayer = grow(this.inodeLayer, new Uint16Array(size));
    this.inodeEntry = grow(this.inodeEntry, new Uint32Array(size));
    this.inodeLinks = grow(this.inodeLinks, new Uint32Array(size));
    this.inodeFirstChild = grow(this.inodeFirstChild, new Uint32Array(size));
    this.inodeTouched = grow(this.inodeTouched, new Uint16Array(size));
  }

  /** The inode is now as this entry says. */
  describe(inode: number, layer: LayerIndex, entry: number): void {
    this.inodeLayer[inode] = layer;
    this.inodeEntry[inode] = entry;
  }

  mode(inode: number): number {
    const layer = this.inodeLayer[inode]!;
    return layer === IMPLICIT ? IMPLICIT_MODE : this.layers[layer]!.mode(this.inodeEntry[inode]!);
  }

  isDirectory(inode: number): boolean {
    return (this.mode(inode) & S_IFMT) === S_IFDIR;
  }

  /** The dentry called `arena`[start, end) in `directory`, or NONE. */
  find(directory: number, arena: Uint8Array, start: number, end: number): number {
    const hash = hashName(directory, arena, start, end);
    let dentry = this.#buckets[hash & (this.#buckets.length - 1)]!;
    while (dentry !== NONE) {
      if (
        this.#dentryHash[dentry] === hash &&
        this.dentryParent[dentry] === directory &&
        this.#isNamed(dentry, arena, start, end)
      )
        return dentry;
      dentry = this.#dentryChain[dentry]!;
    }
    return NONE;
  }

  #isNamed(dentry: number, arena: Uint8Array, start: number, end: number): boolean {
    const length = end - start;
    if (this.dentryNameLength[dentry] !== length) return false;
    const other = this.layers[this.dentryLayer[dentry]!]!.arena;
    const at = this.dentryNameStart[dentry]!;
    for (let i = 0; i < length; i++) if (other[at + i] !== arena[start + i]) return false;
    return true;
  }

  /** Adds a name that is not there yet, for `inode`; `start` and `end` are in the arena of `layer`. */
  addDentry(directory: number, layer: LayerIndex, start: number, end: number, inode: number): number {
    const dentry = this.dentryCount++;
    if (dentry === this.dentryParent.length) this.#growDentries(dentry * 2);
    const hash = hashName(directory, this.layers[layer]!.arena, start, end);
    this.dentryParent[dentry] = directory;
    this.dentryInode[dentry] = inode;
    this.dentryLayer[dentry] = layer;
    this.dentryNameStart[dentry] = start;
    this.dentryNameLength[dentry] = end - start;
    this.dentrySibling[dentry] = this.inodeFirstChild[directory]!;
    this.inodeFirstChild[directory] = dentry;
    this.#dentryHash[dentry] = hash;
    const bucket = hash & (this.#buckets.length - 1);
    this.#dentryChain[dentry] = this.#buckets[bucket]!;
    this.#buckets[bucket] = dentry;
    this.inodeLinks[inode]!++;
    return dentry;
  }

  #growDentries(size: number): void {
    this.dentryParent = grow(this.dentryParent, new Uint32Array(size));
    this.dentryInode = grow(this.dentryInode, new Uint32Array(size));
    this.dentryLayer = grow(this.dentryLayer, new Uint16Array(size));
    this.dentryNameStart = grow(this.dentryNameStart, new Uint32Array(size));
    this.dentryNameLength = grow(this.dentryNameLength, new Uint8Array(size));
    this.dentrySibling = grow(this.dentrySibling, new Uint32Array(size));
    this.#dentryHash = grow(this.#dentryHash, new Uint32Array(size));
    this.#dentryChain = new Uint32Array(size);
    this.#buckets = new Uint32Array(size * 2).fill(NONE);
    for (let dentry = 0; dentry < this.dentryCount - 1; dentry++) {
      if (this.dentryInode[dentry] === NONE) continue;
      const bucket = this.#dentryHash[dentry]! & (this.#buckets.length - 1);
      this.#dentryChain[dentry] = this.#buckets[bucket]!;
      this.#buckets[bucket] = dentry;
    }
  }

  /** The name now belongs to `layer`: `start` is where that layer's arena has it. */
  claim(dentry: number, layer: LayerIndex, start: number): void {
    this.dentryLayer[dentry] = layer;
    this.dentryNameStart[dentry] = start;
  }

  /** Gives the name to another inode. The old one loses a link, and a directory its content. */
  replace(dentry: number, inode: number): void {
    const old = this.dentryInode[dentry]!;
    if (old === inode) return;
    this.inodeLinks[inode]!++;
    this.dentryInode[dentry] = inode;
    this.#release(old);
  }

  remove(dentry: number): void {
    const inode = this.dentryInode[dentry]!;
    this.#unhash(dentry);
    this.#release(inode);
  }

  #unhash(dentry: number): void {
    const bucket = this.#dentryHash[dentry]! & (this.#buckets.length - 1);
    let at = this.#buckets[bucket]!;
    if (at === dentry) this.#buckets[bucket] = this.#dentryChain[dentry]!;
    else {
      while (this.#dentryChain[at] !== dentry) at = this.#dentryChain[at]!;
      this.#dentryChain[at] = this.#dentryChain[dentry]!;
    }
    this.dentryInode[dentry] = NONE;
  }

  /** Takes a link from an inode. A directory has one name, so its content goes too. The depth is the attacker's choice: no recursion. */
  #release(inode: number): void {
    const stack = [inode];
    for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
      this.inodeLinks[top]!--;
      for (let child = this.inodeFirstChild[top]!; child !== NONE; child = this.dentrySibling[child]!) {
        const below = this.dentryInode[child]!;
        if (below === NONE) continue;
        this.#unhash(child);
        stack.push(below);
      }
      this.inodeFirstChild[top] = NONE;
    }
  }
}

function grow<T extends Uint8Array | Uint16Array | Uint32Array>(old: T, bigger: T): T {
  bigger.set(old);
  return bigger;
}

/** Names are the attacker's choice: a random seed keeps collisions unpredictable. (No output depends on it.) */
const SEED = Math.floor(Math.random() * 0x1_0000_0000);

/** FNV-1a over the name, seeded with the directory, and a final mix: FNV's low bits alone choose buckets badly. */
function hashName(directory: number, arena: Uint8Array, start: number, end: number): number {
  let hash = Math.imul(directory ^ SEED, 0x9e3779b1);
  for (let i = start; i < end; i++) hash = Math.imul(hash ^ arena[i]!, 0x01000193);
  hash ^= hash >>> 15;
  hash = Math.imul(hash, 0x85ebca6b);
  return (hash ^ (hash >>> 13)) >>> 0;
}
