import type { Nid } from '../bytes/index.js';
import { type Fetched, Priority } from '../lazy/index.js';
import { SOURCES, type Source } from '../metrics/index.js';
import { type SharedLayer, TOUCH_PAGE, type TouchRecord } from '../spans/index.js';
import { type JourneyColumns, SpanFate, type StartEvent } from '../wire/index.js';
import type { EndedRead } from './reads.js';

/**
 * The first reads and fetches of each mount are kept for `clipctl report`: those of a start, and hours of a quiet program. Together
 * 5 MB for a mount that reaches both.
 */
const MAX_READS = 65_536;
const MAX_FETCHES = 16_384;

/** Files whose waits are summed up. Beyond it the ones that waited least give way. */
const MAX_FILES = 4096;

/** Rows of numbers in one array that grows. */
class Rows {
  #numbers = new Float64Array(0);
  #used = 0;
  /** Rows that found no room. */
  dropped = 0;

  constructor(
    readonly width: number,
    readonly most: number,
  ) {}

  /** Null: no room. */
  next(): { readonly numbers: Float64Array; readonly at: number } | null {
    if (this.#used === this.most * this.width) {
      this.dropped++;
      return null;
    }
    if (this.#used === this.#numbers.length) {
      const larger = new Float64Array(Math.min(this.most, Math.max(256, (2 * this.#used) / this.width)) * this.width);
      larger.set(this.#numbers);
      this.#numbers = larger;
    }
    const at = this.#used;
    this.#used += this.width;
    return { numbers: this.#numbers, at };
  }

  get used(): number {
    return this.#used;
  }

  /** By column. */
  columns(): number[][] {
    const count = this.#used / this.width;
    return Array.from({ length: this.width }, (_, column) =>
      Array.from({ length: count }, (_, row) => this.#numbers[row * this.width + column]!),
    );
  }
}

const READ_WIDTH = 6;
const FETCH_WIDTH = 8;

/** Kept journeys have these numbers, whatever the order of priorities becomes (wire/journey.ts). */
const REASON = {
  [Priority.demand]: 0,
  [Priority.readahead]: 1,
  [Priority.prefetch]: 2,
  [Priority.fill]: 3,
  [Priority.speculation]: 4,
} as const;

/** What the reads of one mount waited for, and what was fetched for them, from the mount on. */
export class Journey {
  readonly #origin: number;
  readonly #reads = new Rows(READ_WIDTH, MAX_READS);
  readonly #fetches = new Rows(FETCH_WIDTH, MAX_FETCHES);
  #firstExec: number | null = null;
  #firstOutput: number | null = null;
  readonly #files = new Map<Nid, { reads: number; milliseconds: number }>();

  /** @param origin the time of the mount (performance.now) */
  constructor(origin: number) {
    this.#origin = origin;
  }

  /** @param time of performance.now, at which the first container on the mount had come so far */
  reached(event: StartEvent, time: number): void {
    // A client may say anything; it cannot have been before the mount, or later than now.
    const at = Math.max(0, Math.min(time, performance.now()) - this.#origin);
    if (event === 'exec') this.#firstExec ??= at;
    else this.#firstOutput ??= at;
  }

  get firstExec(): number | null {
    return this.#firstExec;
  }

  get firstOutput(): number | null {
    return this.#firstOutput;
  }

  read({ nid, offset, length, started, ended, source, error }: EndedRead): void {
    this.#addFile(nid, ended - started);
    const row = this.#reads.next();
    if (row === null) return;
    const { numbers, at } = row;
    numbers[at] = started - this.#origin;
    numbers[at + 1] = ended - started;
    numbers[at + 2] = nid;
    numbers[at + 3] = offset;
    numbers[at + 4] = length;
    numbers[at + 5] = error !== null ? -1 : SOURCES.indexOf(source ?? 'disk_cache');
  }

  fetched(layer: number, { first, end, bytes, reason, source, started, ended }: Fetched): void {
    const row = this.#fetches.next();
    if (row === null) return;
    const { numbers, at } = row;
    numbers[at] = started - this.#origin;
    numbers[at + 1] = ended - started;
    numbers[at + 2] = layer;
    numbers[at + 3] = first;
    numbers[at + 4] = end;
    numbers[at + 5] = bytes;
    numbers[at + 6] = REASON[reason];
    numbers[at + 7] = SOURCES.indexOf(source);
  }

  #addFile(nid: Nid, milliseconds: number): void {
    const known = this.#files.get(nid);
    if (known !== undefined) {
      known.reads++;
      known.milliseconds += milliseconds;
      return;
    }
    if (this.#files.size === MAX_FILES) {
      const order = [...this.#files].sort(([, a], [, b]) => a.milliseconds - b.milliseconds);
      for (const [old] of order.slice(0, MAX_FILES / 2)) this.#files.delete(old);
    }
    this.#files.set(nid, { reads: 1, milliseconds });
  }

  /** Something was read or fetched. */
  get moved(): boolean {
    return this.#reads.used > 0 || this.#fetches.used > 0;
  }

  /** The files whose readers waited longest. */
  slowest(count: number): { readonly nid: Nid; readonly reads: number; readonly milliseconds: number }[] {
    return [...this.#files]
      .sort(([, a], [, b]) => b.milliseconds - a.milliseconds)
      .slice(0, count)
      .map(([nid, file]) => ({ nid, ...file }));
  }

  get columns(): JourneyColumns {
    const [at = [], took = [], nid = [], offset = [], length = [], source = []] = this.#reads.columns();
    const [from = [], lasted = [], layer = [], first = [], end = [], bytes = [], reason = [], origin = []] =
      this.#fetches.columns();
    return {
      sources: SOURCES as readonly Source[],
      reads: { at, took, nid, offset, length, source },
      fetches: { at: from, took: lasted, layer, first, end, bytes, reason, source: origin },
      droppedReads: this.#reads.dropped,
      droppedFetches: this.#fetches.dropped,
    };
  }
}

/** What became of each span of a layer: by the pages that were touched at the start, the spans that were used, and the fetches. */
export function spanFates(
  { lastUse, offsets }: SharedLayer,
  touch: TouchRecord | null,
  fetches: JourneyColumns['fetches'],
  layer: number,
): number[] {
  const ahead = new Uint8Array(lastUse.length);
  const fetched = new Uint8Array(lastUse.length);
  for (let i = 0; i < fetches.at.length; i++) {
    if (fetches.layer[i] !== layer) continue;
    for (let span = fetches.first[i]!; span < fetches.end[i]!; span++) {
      if (SOURCES[fetches.source[i]!] === 'disk_cache') continue;
      fetched[span] = 1;
      if (fetches.reason[i] !== Priority.demand) ahead[span] = 1;
    }
  }
  return Array.from(lastUse, (used, span) => {
    const touched = used > 0 || (touch !== null && touchedIn(touch, offsets[span]!, offsets[span + 1]!));
    if (!touched) return fetched[span] === 1 ? SpanFate.unread : SpanFate.untouched;
    if (fetched[span] === 0) return SpanFate.cached;
    return ahead[span] === 1 ? SpanFate.foreseen : SpanFate.demanded;
  });
}

function touchedIn({ pages }: TouchRecord, start: number, end: number): boolean {
  // A page that straddles the boundary counts for the span in which it begins.
  for (let page = Math.ceil(start / TOUCH_PAGE); page * TOUCH_PAGE < end; page++) if (pages[page]! > 0) return true;
  return false;
}
