import type { SpanTable } from '../../archive/index.js';
import type { SpanIndex } from '../../bytes/index.js';
import { type SharedLayer, spanAt } from '../../spans/index.js';
import { Priority } from '../inflate-tasks.js';
import type { FileHint, LayerProvider } from '../types.js';

/**
 * Spans entered one after the other, each at its start, before a reader counts as sequential. A reader of scattered pages
 * crosses a boundary by chance every 16th time (128 KiB of kernel read-ahead in 2 MiB), but hardly ever twice in a row.
 */
const SEQUENTIAL_STEPS = 2;
/** A sequential reader's first miss in a span lies within the kernel's own read-ahead from its start. */
const START_SLACK = 256 * 1024;
/** How far ahead a reader is followed at first, and, when it has read more than that, at the most. */
const FIRST_WINDOW = 16 * 1024 * 1024;
const MAX_WINDOW = 64 * 1024 * 1024;
const MAX_STREAMS = 128;
/** A reader that has not moved for this long is not watched any more. */
const IDLE_MS = 2000;

/** What read-ahead needs of a layer. */
export interface SequentialLayer {
  readonly spans: { readonly table: Pick<SpanTable, 'layerOffset' | 'count'> };
  readonly shared: Pick<SharedLayer, 'lastUse'>;
  ahead(provider: LayerProvider, span: SpanIndex, priority: typeof Priority.readahead): unknown;
  cancelAhead(span: SpanIndex): void;
}

interface Stream {
  /** Of the archive through which the file is read. */
  readonly provider: LayerProvider;
  readonly end: number;
  /** The span in which it began to be sequential. */
  first: number;
  /** The furthest span it was seen in. */
  last: number;
  steps: number;
  window: number;
  /** Spans up to here (exclusive) were asked for ahead. */
  ahead: number;
  moved: number;
}

/** Adaptive read-ahead of one layer's files: nothing for random readers, up to 16 MiB for sequential ones, or as much as they have read. */
export class Readahead {
  readonly #layer: SequentialLayer;
  readonly #streams = new Map<string | number, Stream>();
  watch: () => void = () => {};

  constructor(layer: SequentialLayer) {
    this.#layer = layer;
  }

  /** A read came to the I/O thread: at least one of spans [first, last] was missing a moment ago. */
  onRead(provider: LayerProvider, file: FileHint, offset: number, first: number, last: number): void {
    const stream = this.#streams.get(file.key);
    if (stream === undefined) {
      if (this.#streams.size >= MAX_STREAMS) this.#streams.delete(this.#streams.keys().next().value!);
      const now = performance.now();
      const steps = last - first;
      this.#streams.set(file.key, { provider, end: file.end, first, last, steps, window: 0, ahead: 0, moved: now });
      return;
    }
    if (last <= stream.last) {
      // The kernel reads ahead with several requests, which overtake each other by a little.
      if (last < stream.last - 1) this.#restart(stream, last);
      return;
    }
    // Reads are of whole pages, and spans are not: one that reaches into a span enters it at its start, wherever it began.
    const entersAtStart =
      first <= stream.last || first < last || offset - this.#layer.spans.table.layerOffset[first]! <= START_SLACK;
    if (first > Math.max(stream.last + 1, stream.ahead) || !entersAtStart) this.#restart(stream, last);
    else this.#advance(stream, last);
  }

  /** Looks where workers have answered reads by themselves. False when there is nothing left to watch. */
  poll(): boolean {
    let active = false;
    const now = performance.now();
    for (const stream of this.#streams.values()) {
      if (stream.ahead <= stream.last + 1) continue;
      const { lastUse } = this.#layer.shared;
      let reached = stream.last;
      for (let span = stream.last + 1; span < stream.ahead; span++) if (lastUse[span]! > 0) reached = span;
      if (reached > stream.last) this.#advance(stream, reached);
      else if (now - stream.moved > IDLE_MS) {
        this.#restart(stream, stream.last);
        continue;
      }
      active = true;
    }
    return active;
  }

  #advance(stream: Stream, last: number): void {
    stream.steps += last - stream.last;
    stream.last = last;
    stream.moved = performance.now();
    if (stream.steps < SEQUENTIAL_STEPS) return;
    const { layerOffset, count } = this.#layer.spans.table;
    const here = layerOffset[last + 1]!;
    const most = Math.min(MAX_WINDOW, Math.max(FIRST_WINDOW, here - layerOffset[stream.first]!));
    stream.window = stream.window === 0 ? here - layerOffset[last]! : Math.min(most, stream.window * 2);
    const until = Math.min(stream.end, here + stream.window);
    const asked = layerOffset[Math.max(stream.ahead, last + 1)]!;
    // In halves: each request costs the registry and us something, however small it is.
    if (asked - here > stream.window / 2 || until <= asked) {
      if (until > here) this.watch();
      return;
    }
    const end = Math.min(count, spanAt(layerOffset, until - 1) + 1);
    for (let span = Math.max(stream.ahead, last + 1); span < end; span++) {
      void this.#layer.ahead(stream.provider, span, Priority.readahead);
    }
    stream.ahead = Math.max(stream.ahead, end);
    this.watch();
  }

  /** Not sequential after all: what was asked for and has not come is called off. */
  #restart(stream: Stream, last: number): void {
    for (let span = stream.last + 1; span < stream.ahead; span++) this.#layer.cancelAhead(span);
    stream.first = last;
    stream.last = last;
    stream.steps = 0;
    stream.window = 0;
    stream.ahead = 0;
  }
}
