import type { LayerId } from '../bytes/index.js';
import type { TouchRecord } from './touch-record.js';

/** What every thread sees of one layer: plain data over SharedArrayBuffers, so it crosses postMessage as it is. */
export interface SharedLayer {
  /** Unique in this process. */
  readonly id: LayerId;
  /** count + 1 offsets in the uncompressed layer: span i is [offsets[i], offsets[i + 1]). */
  readonly offsets: Float64Array;
  /** count generations. Odd: the span's bytes are in `fd` and verified. */
  readonly generations: Int32Array;
  /** A sparse file that holds each span at its own layer offset. −1: no disk cache, every read is a miss. */
  readonly fd: number;
  /**
   * When each span was last read, in ticks of `clock`; 0: never. Negative: fetched ahead at tick −n and not read since, from
   * which fetching ahead learns what was useful. Eviction goes by the absolute value.
   */
  readonly lastUse: Int32Array;
  /** One element, shared by all layers of a cache. It advances with every fill, so that it orders uses against fills. */
  readonly clock: Int32Array;
  /** In the copy that one mount's workers have, while a profile of that mount may be recorded. */
  readonly touch?: TouchRecord | undefined;
}
