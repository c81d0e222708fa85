import { BLOCK } from './format.js';
import { InodeView } from './inode.js';
import type { ErofsReader } from './reader.js';

/** A stretch of a layer that one file has. */
export interface FileStretch {
  readonly nid: number;
  /** In the layer. */
  readonly start: number;
  readonly length: number;
}

/** Inodes that are visited between two turns of the event loop: about a millisecond's worth. */
const INODES_PER_STEP = 2000;

/** A sort key is block × this + position in the order of the walk: an exact number, because a layer has at most 2^32 blocks. */
const STRETCHES_MAX = 2 ** 21;

/** The stretches of one layer, while they are collected. */
class Collected {
  count = 0;
  nid = new Float64Array(256);
  start = new Float64Array(256);
  length = new Float64Array(256);

  add(nid: number, start: number, length: number): void {
    if (this.count === this.nid.length) {
      for (const name of ['nid', 'start', 'length'] as const) {
        const grown = new Float64Array(this.count * 2);
        grown.set(this[name]);
        this[name] = grown;
      }
    }
    this.nid[this.count] = nid;
    this.start[this.count] = start;
    this.length[this.count++] = length;
  }

  sorted(): Sorted {
    const { count } = this;
    const keys = new Float64Array(count);
    for (let i = 0; i < count; i++) keys[i] = (this.start[i]! / BLOCK) * STRETCHES_MAX + i;
    keys.sort();
    const column = (of: Float64Array): Float64Array => keys.map((key) => of[key % STRETCHES_MAX]!);
    return { nid: column(this.nid), start: column(this.start), length: column(this.length) };
  }
}

interface Sorted {
  readonly nid: Float64Array;
  readonly start: Float64Array;
  readonly length: Float64Array;
}

/** The inverse of a tree's map of files to layers: which file has the bytes at a layer offset. For trees without a placement. */
export class FileFinder {
  readonly #layers: readonly Sorted[];

  private constructor(layers: readonly Sorted[]) {
    this.#layers = layers;
  }

  /**
   * Builds it step by step: each `next()` takes about a millisecond, and the last one gives it; null for a tree with too many files.
   * @throws FormatError
   */
  static *build(reader: ErofsReader): Generator<void, FileFinder | null> {
    const layers = reader.deviceBytes.map(() => new Collected());
    const seen = new Set<number>([reader.rootNid]);
    const pending = [reader.rootNid];
    const inode = new InodeView();
    let visited = 0;
    for (let nid = pending.pop(); nid !== undefined; nid = pending.pop()) {
      if (++visited % INODES_PER_STEP === 0) yield;
      reader.inode(nid, inode);
      if (inode.isFile) {
        const { nid: file } = inode;
        let full = false;
        reader.mapRange(nid, 0, inode.size, (layer, start, length) => {
          if (layer >= 0) layers[layer]!.add(file, start, length);
          full ||= layer >= 0 && layers[layer]!.count === STRETCHES_MAX;
        });
        if (full) return null;
      } else if (inode.isDirectory) {
        reader.readdir(nid, 0, (child) => {
          if (!seen.has(child)) {
            seen.add(child);
            pending.push(child);
          }
          return true;
        });
      }
    }
    return new FileFinder(layers.map((layer) => layer.sorted()));
  }

  /** The stretch that holds the byte; null for bytes that no file has (headers, padding, replaced files). */
  at(layer: number, offset: number): FileStretch | null {
    const columns = this.#layers[layer];
    if (columns === undefined) return null;
    const { nid, start, length } = columns;
    let low = 0;
    let high = start.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (start[middle]! <= offset) low = middle + 1;
      else high = middle;
    }
    const i = low - 1;
    if (i < 0 || offset >= start[i]! + length[i]!) return null;
    return { nid: nid[i]!, start: start[i]!, length: length[i]! };
  }
}
