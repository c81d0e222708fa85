import { Session } from 'node:inspector';

interface Taken {
  readonly result: readonly {
    readonly url: string;
    readonly functions: readonly {
      readonly ranges: readonly { readonly startOffset: number; readonly endOffset: number; readonly count: number }[];
    }[];
  }[];
}

/** Only the code under test counts, not the builders of its inputs. */
const UNDER_TEST = '/dist/src/';

/**
 * Which blocks of src/ this thread has run, as V8 counts them: the feedback of the coverage-guided fuzzer. Jazzer.js would need
 * glibc 2.38 for its native part, and jsfuzz instruments CommonJS only. What runs in WebAssembly does not count.
 */
export class Coverage {
  readonly #session = new Session();
  readonly #seen = new Set<string>();

  constructor() {
    this.#session.connect();
    this.#session.post('Profiler.enable');
    this.#session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });
  }

  /** Blocks seen so far. A block that runs twice as often as ever counts as another one. */
  get size(): number {
    return this.#seen.size;
  }

  /** Whether anything new has run since the last call of either method. */
  hasNew(): boolean {
    return this.#take().some((block) => !this.#seen.has(`${block} 0`));
  }

  /** The same for one input, and remembers what has run. */
  addNew(): boolean {
    const before = this.#seen.size;
    for (const block of this.#take(true)) this.#seen.add(block);
    return this.#seen.size > before;
  }

  #take(counts = false): string[] {
    let taken: Taken | undefined;
    this.#session.post('Profiler.takePreciseCoverage', (error, found) => {
      if (error !== null) throw error;
      taken = found as Taken;
    });
    const blocks: string[] = [];
    for (const { url, functions } of taken!.result) {
      if (!url.includes(UNDER_TEST)) continue;
      for (const { ranges } of functions) {
        for (const { startOffset, endOffset, count } of ranges) {
          if (count === 0) continue;
          const block = `${url} ${startOffset} ${endOffset}`;
          if (!counts) blocks.push(block);
          else for (let power = Math.floor(Math.log2(count)); power >= 0; power--) blocks.push(`${block} ${power}`);
        }
      }
    }
    return blocks;
  }
}
