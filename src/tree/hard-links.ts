import type { LayerIndex } from '../bytes/index.js';
import { S_IFMT } from '../tar/index.js';
import { NONE, type TreeStore } from './store.js';

/**
 * Hard links that come before their target. Their names get a place-holder (an inode of type 0) until the layer is read, so that a
 * later entry of the same name still replaces them.
 */
export class HardLinks {
  readonly #store: TreeStore;
  readonly #layer: LayerIndex;
  readonly #findTarget: (start: number, end: number) => number;
  readonly #fail: (entry: number, detail: string) => never;
  /** The one dentry of each place-holder, by its inode. */
  readonly #pending = new Map<number, number>();

  constructor(
    store: TreeStore,
    layer: LayerIndex,
    findTarget: (start: number, end: number) => number,
    fail: (entry: number, detail: string) => never,
  ) {
    this.#store = store;
    this.#layer = layer;
    this.#findTarget = findTarget;
    this.#fail = fail;
  }

  isPending(inode: number): boolean {
    return (this.#store.mode(inode) & S_IFMT) === 0;
  }

  addPending(entry: number): number {
    const inode = this.#store.addInode(this.#layer, entry);
    this.#pending.set(inode, NONE);
    return inode;
  }

  /** Sets the name of a place-holder. */
  setName(inode: number, dentry: number): void {
    if (this.#pending.has(inode)) this.#pending.set(inode, dentry);
  }

  resolve(): void {
    const store = this.#store;
    const entries = store.layers[this.#layer]!;
    for (const first of this.#pending.keys()) {
      if (!this.#isWaiting(first)) continue;
      // A chain of links to links: follow it to its end, then give all of it the same inode.
      const chain = new Set<number>();
      let inode = first;
      while (this.isPending(inode)) {
        const entry = store.inodeEntry[inode]!;
        if (chain.has(inode)) this.#fail(entry, 'a hard link that leads back to itself');
        chain.add(inode);
        const target = this.#findTarget(entries.linkStart(entry), entries.linkEnd(entry));
        if (target < 0) this.#fail(entry, 'the target of the hard link does not exist');
        if (store.isDirectory(target)) this.#fail(entry, 'a hard link to a directory');
        inode = target;
      }
      for (const link of chain) if (this.#isWaiting(link)) store.replace(this.#pending.get(link)!, inode);
    }
  }

  #isWaiting(inode: number): boolean {
    const dentry = this.#pending.get(inode);
    return dentry !== undefined && dentry !== NONE && this.#store.dentryInode[dentry] === inode;
  }
}
