import type { TouchRecord } from './touch-record.js';

/**
 * The part of a layer that all threads see. Plain data over SharedArrayBuffers: it crosses postMessage unchanged.
 *
 * Hit protocol (docs/architecture.md, "Invariant 9"), in a FUSE worker:
 * ```
 * g = Atomics.load(generations, span)            // even: a miss, ask the I/O thread
 * pread(fd, …) at the span bytes' own layer offset
 * Atomics.load(generations, span) === g          // else: a miss after all
 * lastUse[span] = Atomics.load(clock, 0)         // = noteUse(): a plain store, races are harmless
 * ```
 */
export interface SharedLayer {
  /** Unique in this process. */
  readonly id: number;
  /** count + 1 offsets in the uncompressed layer: span i is [offsets[i], offsets[i + 1]). */
  readonly offsets: Float64Array;
  /** count generations, odd = the span's bytes are in `fd` and verified. */
  readonly generations: Int32Array;
  /** Sparse file, each span at its own layer offset; -1: no disk cache, every read is a miss. */
  readonly fd: number;
  /**
   * When each span was last read, in ticks of `clock`; 0 = never. Negative: fetched ahead of a reader at tick −n and not
   * read since, which is how read-ahead learns what was useful. Feeds the LRU.
   */
  readonly lastUse: Int32Array;
  /** One element, shared by all layers of a cache: advances with every fill, so that it orders uses against fills. */
  readonly clock: Int32Array;
  /** In the copy that one mount's workers have, while a profile of that mount may be recorded. */
  readonly touch?: TouchRecord | undefined;
}

/** Marks a span as read now. For the hot path: no call, no allocation beyond this. */
export function noteUse(layer: SharedLayer, span: number): void {
  layer.lastUse[span] = Atomics.load(layer.clock, 0);
}

/** The span that holds `offset`, by binary search; offsets[0] ≤ offset < offsets[count]. */
export function spanAt(offsets: Float64Array, offset: number): number {
  let low = 0;
  let high = offsets.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if (offsets[middle]! <= offset) low = middle;
    else high = middle - 1;
  }
  return low;
}
