import type { References } from '../archive/index.js';
import type { Nid } from '../bytes/index.js';
import type { LinkSink } from './languages/language.js';

/** Links between files, in the order in which they were found. */
export class Links implements LinkSink {
  /** Files get numbers in the order of their first mention. */
  readonly #number = new Map<number, number>();
  readonly #nids: number[] = [];
  readonly #targets: number[][] = [];
  readonly #ranges: (readonly number[])[] = [];

  #of(nid: Nid): number {
    let number = this.#number.get(nid);
    if (number === undefined) {
      number = this.#nids.push(nid) - 1;
      this.#number.set(nid, number);
      this.#targets.push([]);
      this.#ranges.push([]);
    }
    return number;
  }

  add(from: number, to: number): void {
    if (from !== to) this.#targets[this.#of(from)]!.push(this.#of(to));
  }

  /** Also registers the file. */
  range(nid: Nid, ranges: readonly number[]): void {
    this.#ranges[this.#of(nid)] = ranges;
  }

  finish(): References | null {
    const count = this.#nids.length;
    if (count === 0) return null;
    const nids = this.#nids;
    const order = Uint32Array.from(nids.keys()).sort((a, b) => nids[a]! - nids[b]!);
    const position = new Uint32Array(count);
    for (const [i, number] of order.entries()) position[number] = i;
    const [firstTarget, firstRange] = [new Uint32Array(count + 1), new Uint32Array(count + 1)];
    const [target, range]: [number[], number[]] = [[], []];
    /** The file that last led to each file. */
    const seen = new Int32Array(count).fill(-1);
    for (let i = 0; i < count; i++) {
      const number = order[i]!;
      for (const to of this.#targets[number]!) {
        if (seen[to] === i) continue;
        seen[to] = i;
        target.push(position[to]!);
      }
      for (const page of this.#ranges[number]!) range.push(page);
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
}
