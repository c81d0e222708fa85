import { FormatError } from '../bytes/index.js';
import { DIRENT_SIZE } from './format.js';
import type { ErofsReader } from './reader.js';

/**
 * The end of a walk through a tree that leads back to itself, or to one directory by many names: forty directories of two names each
 * have a million million paths. A whole tree has no more entries than fit into it, and visits each directory once, by an entry.
 */
export class WalkLimit {
  #left: number;

  constructor(reader: ErofsReader) {
    this.#left = 2 * Math.ceil(reader.image.length / DIRENT_SIZE) + 1;
  }

  /** Counts a directory that is visited, with the number of its entries. @throws FormatError */
  visit(entries: number): void {
    this.#left -= entries + 1;
    if (this.#left >= 0) return;
    throw new FormatError('section tree', 0, 'more entries than it has room for: it leads back to itself', {
      hint: 'the archive is damaged or forged: make it again with clipctl index',
    });
  }
}
