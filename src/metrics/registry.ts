import { Histogram } from './histogram.js';

/**
 * The counters, gauges and histograms of one process. Its main function makes them and passes them on; they are no global, so that tests
 * and two servers in one process do not mix their figures. How they are named to the outside: catalogue.ts.
 */
export class Metrics {
  readonly #counters = new Map<string, Counter>();
  readonly #gauges = new Map<string, () => number>();
  readonly #histograms = new Map<string, Histogram>();
  readonly #sources: (() => Readonly<Record<string, number>>)[] = [];

  /** The counter of that name. Names are camelCase: "demandBytes". */
  counter(name: string): Counter {
    let counter = this.#counters.get(name);
    if (counter === undefined) {
      counter = new Counter();
      this.#counters.set(name, counter);
    }
    return counter;
  }

  /** A value that is read at each snapshot. A second registration of the name replaces the first. */
  gauge(name: string, read: () => number): void {
    this.#gauges.set(name, read);
  }

  histogram(name: string): Histogram {
    let histogram = this.#histograms.get(name);
    if (histogram === undefined) {
      histogram = new Histogram();
      this.#histograms.set(name, histogram);
    }
    return histogram;
  }

  get histograms(): ReadonlyMap<string, Histogram> {
    return this.#histograms;
  }

  /** Figures that live elsewhere (worker threads): merged into each snapshot, same names are summed. */
  addSource(read: () => Readonly<Record<string, number>>): void {
    this.#sources.push(read);
  }

  /** All counters and gauges now, sorted by name, as `clipctl stats --json` shows them. */
  snapshot(): Record<string, number> {
    const values = new Map<string, number>();
    // Sources first: reading them may bring counters up to date.
    for (const read of this.#sources) {
      for (const [name, value] of Object.entries(read())) values.set(name, (values.get(name) ?? 0) + value);
    }
    for (const [name, counter] of this.#counters) values.set(name, (values.get(name) ?? 0) + counter.value);
    for (const [name, read] of this.#gauges) values.set(name, read());
    return Object.fromEntries([...values].sort(([a], [b]) => (a < b ? -1 : 1)));
  }
}

/** Only grows. */
export class Counter {
  value = 0;

  add(amount = 1): void {
    this.value += amount;
  }
}
