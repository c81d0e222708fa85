import type { LayerIndex } from '../bytes/index.js';
import { IMPLICIT, NONE, type TreeStore } from './store.js';

/**
 * One layer's whiteouts, applied when all its entries are in the tree: image-spec layer.md, "Files that are present in the
 * same layer as a whiteout file can only be hidden by whiteout files in subsequent layers". So their place in the tar does
 * not matter, and files of this layer stay.
 */
export class Whiteouts {
  readonly #store: TreeStore;
  readonly #layer: LayerIndex;
  /** Triples: directory inode, name start, name end (in the layer's arena). */
  readonly #names: number[] = [];
  readonly #opaque: number[] = [];
  /** A pruned directory need not be pruned again: many whiteouts of one directory cost one pass. */
  readonly #pruned = new Set<number>();

  constructor(store: TreeStore, layer: LayerIndex) {
    this.#store = store;
    this.#layer = layer;
  }

  add(directory: number, start: number, end: number): void {
    this.#names.push(directory, start, end);
  }

  addOpaque(directory: number): void {
    this.#opaque.push(directory);
  }

  apply(): void {
    for (const directory of this.#opaque) this.#prune(directory);
    const { arena } = this.#store.layers[this.#layer]!;
    for (let n = 0; n < this.#names.length; n += 3) {
      const dentry = this.#store.find(this.#names[n]!, arena, this.#names[n + 1]!, this.#names[n + 2]!);
      if (dentry === NONE) continue;
      const below = this.#hide(dentry);
      if (below !== NONE) this.#prune(below);
    }
  }

  /** Removes the files of lower layers under this name. Returns the directory if it stays because this layer has a part in it. */
  #hide(dentry: number): number {
    const store = this.#store;
    const inode = store.dentryInode[dentry]!;
    const directory = store.isDirectory(inode);
    if (store.dentryLayer[dentry] === this.#layer) return directory ? inode : NONE;
    if (directory && store.inodeTouched[inode] === this.#layer + 1) {
      // This layer has entries below it and none for the directory itself: it becomes a new one that no layer describes.
      store.inodeLayer[inode] = IMPLICIT;
      return inode;
    }
    store.remove(dentry);
    return NONE;
  }

  /** Hides all entries of lower layers in a directory, and in the directories of this layer below it. */
  #prune(directory: number): void {
    const store = this.#store;
    const stack = [directory];
    for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
      if (this.#pruned.has(top)) continue;
      this.#pruned.add(top);
      for (let child = store.inodeFirstChild[top]!; child !== NONE; child = store.dentrySibling[child]!) {
        if (store.dentryInode[child] === NONE) continue;
        const below = this.#hide(child);
        if (below !== NONE) stack.push(below);
      }
    }
  }
}
