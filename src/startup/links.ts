import type { References } from '../archive/index.js';
import type { Nid } from '../bytes/index.js';
import type { LinkSink } from './languages/language.js';

/** Links between files, in the order in which they were found. */
export class Links implements LinkSink {
  /** Files get numbers in the order of their first mention. */
  readonly #number = new Map<number, number>();
  readonly #nids: number[] = [];
  /** Of each link, in two arrays of numbers: an image has some hundred thousand. */
  readonly #from: number[] = [];
  readonly #to: number[] = [];
  readonly #ranges = new Map<number, readonly number[]>();
  /** The last file with links, because its other ones follow. */
  #last = { nid: -1, number: -1 };

  #of(nid: Nid): number {
    let number = this.#number.get(nid);
    if (number === undefined) {
      number = this.#nids.push(nid) - 1;
      this.#number.set(nid, number);
    }
    return number;
  }

  add(from: number, to: number): void {
    if (from === to) return;
    if (this.#last.nid !== from) this.#last = { nid: from, number: this.#of(from) };
    this.#from.push(this.#last.number);
    this.#to.push(this.#of(to));
  }

  /** Also registers the file. */
  range(nid: Nid, ranges: readonly number[]): void {
    this.#ranges.set(this.#of(nid), ranges);
  }

  finish(): References | null {
    const count = this.#nids.length;
    if (count === 0) return null;
    const nids = this.#nids;
    const order = Uint32Array.from(nids.keys()).sort((a, b) => nids[a]! - nids[b]!);
    const position = new Uint32Array(count);
    for (const [i, number] of order.entries()) position[number] = i;
    const { starts, targets } = this.#byFile(count);
    const [firstTarget, firstRange] = [new Uint32Array(count + 1), new Uint32Array(count + 1)];
    const [target, range]: [number[], number[]] = [[], []];
    /** The file that last led to each file. */
    const seen = new Int32Array(count).fill(-1);
    for (let i = 0; i < count; i++) {
      const number = order[i]!;
      for (let at = starts[number]!; at < starts[number + 1]!; at++) {
        const to = targets[at]!;
        if (seen[to] === i) continue;
        seen[to] = i;
        target.push(position[to]!);
      }
      for (const page of this.#ranges.get(number) ?? []) range.push(page);
      firstTarget[i + 1] = target.length;
      firstRange[i + 1] = range.length;
    }
    return {
      count,
      nid: Float64Array.from(order, (number) => nids[number]!),
      firstTarget,
      target: Uint32Array.from(target),
      firstRange,
      range: Uint32Array.from(range),
    };
  }

  /** The targets of each file together, in their order, and where those of each file begin. */
  #byFile(count: number): { readonly starts: Uint32Array; readonly targets: Uint32Array } {
    const [from, to] = [this.#from, this.#to];
    const starts = new Uint32Array(count + 1);
    for (const number of from) starts[number + 1]!++;
    for (let i = 0; i < count; i++) starts[i + 1]! += starts[i]!;
    const next = starts.slice();
    const targets = new Uint32Array(to.length);
    for (let i = 0; i < to.length; i++) targets[next[from[i]!]!++] = to[i]!;
    return { starts, targets };
  }
}
