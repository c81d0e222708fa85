/** Indices of workers begin with 1. */
export const MAX_FUSE_WORKERS = 65;

/** Of a clock that all threads share, which performance.now() of a worker thread is not. */
function milliseconds(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/**
 * The reads of one mount that FUSE workers have answered from the span cache: their number, and when the first one was. In shared memory, where
 * each worker has places of its own; each thread makes its own view.
 */
export class MountHits {
  readonly #counts: Float64Array;
  readonly #firsts: Float64Array;
  readonly #since = milliseconds();

  constructor(readonly shared: SharedArrayBuffer = new SharedArrayBuffer(16 * MAX_FUSE_WORKERS)) {
    this.#counts = new Float64Array(shared, 0, MAX_FUSE_WORKERS);
    this.#firsts = new Float64Array(shared, 8 * MAX_FUSE_WORKERS, MAX_FUSE_WORKERS);
  }

  /** A read was answered. Allocates nothing but at the first. */
  add(worker: number): void {
    const counts = this.#counts;
    if (counts[worker]! === 0) this.#firsts[worker] = milliseconds();
    counts[worker]!++;
  }

  get count(): number {
    return this.#counts.reduce((sum, count) => sum + count, 0);
  }

  /** Milliseconds from the making of this view to the first; null: none yet. */
  get first(): number | null {
    const times = this.#firsts.filter((time) => time > 0);
    return times.length === 0 ? null : Math.min(...times) - this.#since;
  }
}
