/**
 * Bounds of times in seconds, from a hit of a nearby cache to a read timeout. Fine enough that a percentile read out of them is within a
 * third of the true one.
 */
export const SECONDS: readonly number[] = [
  0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1,
  2, 5, 10, 30, 60,
];

/** Counts observations by size. Allocates nothing when it observes. */
export class Histogram {
  /** By bound; the last one counts what is larger than all bounds. */
  readonly counts: Float64Array;
  sum = 0;
  #largest = 0;

  constructor(readonly bounds: readonly number[] = SECONDS) {
    this.counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    const { bounds } = this;
    let i = 0;
    while (i < bounds.length && value > bounds[i]!) i++;
    this.counts[i]!++;
    this.sum += value;
    if (value > this.#largest) this.#largest = value;
  }

  get count(): number {
    let count = 0;
    for (const one of this.counts) count += one;
    return count;
  }

  /**
   * The value below which a share of the observations lies, interpolated within its bounds, and not more than the largest; null: there are
   * none.
   */
  quantile(share: number): number | null {
    const { bounds, counts } = this;
    const rank = share * this.count;
    if (this.count === 0) return null;
    let below = 0;
    for (let i = 0; i < bounds.length; i++) {
      const here = counts[i]!;
      if (here > 0 && below + here >= rank) {
        const from = i === 0 ? 0 : bounds[i - 1]!;
        return Math.min(from + ((bounds[i]! - from) * (rank - below)) / here, this.#largest);
      }
      below += here;
    }
    return this.#largest;
  }
}
