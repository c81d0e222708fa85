/**
 * The counters and gauges of one process. Its main function makes them and passes them on; they are no global, so that tests and two
 * servers in one process do not mix their figures.
 */
export class Metrics {
  readonly #counters = new Map<string, Counter>();
  readonly #gauges = new Map<string, { help: string; read: () => number }>();
  readonly #sources: (() => Readonly<Record<string, number>>)[] = [];

  /** The counter of that name; the first call's help text stays. Names are camelCase: "demandBytes". */
  counter(name: string, help: string): Counter {
    let counter = this.#counters.get(name);
    if (counter === undefined) {
      counter = new Counter(help);
      this.#counters.set(name, counter);
    }
    return counter;
  }

  /** A value that is read at each snapshot. A second registration of the name replaces the first. */
  gauge(name: string, help: string, read: () => number): void {
    this.#gauges.set(name, { help, read });
  }

  /** Counters that live elsewhere (worker threads): merged into each snapshot, same names are summed. */
  addSource(read: () => Readonly<Record<string, number>>): void {
    this.#sources.push(read);
  }

  /** All values now, sorted by name, as `clipctl stats --json` shows them. */
  snapshot(): Record<string, number> {
    const values = new Map<string, number>();
    // Sources first: reading them may bring counters up to date.
    for (const read of this.#sources) {
      for (const [name, value] of Object.entries(read())) values.set(name, (values.get(name) ?? 0) + value);
    }
    for (const [name, counter] of this.#counters) values.set(name, (values.get(name) ?? 0) + counter.value);
    for (const [name, gauge] of this.#gauges) values.set(name, gauge.read());
    return Object.fromEntries([...values].sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  /** In the text format of Prometheus: clip_demand_bytes_total and so on. */
  exposition(): { contentType: string; text: string } {
    const lines: string[] = [];
    for (const [name, value] of Object.entries(this.snapshot())) {
      const snake = `clip_${name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`).replace(/[^a-zA-Z0-9_]/g, '_')}`;
      const gauge = this.#gauges.get(name);
      const [metric, type] = gauge === undefined ? [`${snake}_total`, 'counter'] : [snake, 'gauge'];
      const help = (gauge ?? this.#counters.get(name))?.help ?? name;
      // Only backslash and line feed are escaped in a help text.
      const escaped = help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n');
      lines.push(`# HELP ${metric} ${escaped}`, `# TYPE ${metric} ${type}`, `${metric} ${value}`);
    }
    return { contentType: 'text/plain; version=0.0.4; charset=utf-8', text: `${lines.join('\n')}\n` };
  }
}

/** Only grows. */
export class Counter {
  value = 0;

  constructor(readonly help: string) {}

  add(amount = 1): void {
    this.value += amount;
  }
}
