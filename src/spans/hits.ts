import type { SpanIndex } from '../bytes/index.js';
import { spanAt } from './layer-spans.js';
import type { SharedLayer } from './shared-layer.js';

/**
 * The hit protocol (docs/architecture.md, "Invariant 9"): how threads that read a layer's cache file, fill it and free parts
 * of it stay out of each other's way without a lock. A reader loads the generations of the spans, reads the bytes, and loads
 * the generations again. The thread that fills a span makes its generation odd afterwards; the I/O thread makes it even
 * before it frees the bytes.
 */

/** Where a span's inflated bytes go: into a cache file, or (fd −1) back to the I/O thread. */
export interface SpanTarget {
  readonly fd: number;
  /** The span's layer offset, which is its place in the file. */
  readonly position: number;
  readonly span: SpanIndex;
  /** Becomes odd once the bytes are written. */
  readonly generations: Int32Array;
  /** The blocks of the file that hold nothing but this span are holes: zeros need not be written there. */
  readonly hole?: boolean;
}

/** From now on FUSE workers read the span. Only the thread that has filled or checked it calls this. */
export function publish(target: SpanTarget): void {
  const generation = Atomics.load(target.generations, target.span);
  if ((generation & 1) === 0) Atomics.store(target.generations, target.span, (generation + 1) | 0);
}

/** Readers of the span miss from now on. I/O thread only, before the span's bytes are freed. */
export function hide(layer: SharedLayer, span: SpanIndex): void {
  if (isPresent(layer, span)) Atomics.add(layer.generations, span, 1);
}

export function isPresent(layer: SharedLayer, span: SpanIndex): boolean {
  return (Atomics.load(layer.generations, span) & 1) === 1;
}

/** Marks a span as read now. A plain store: a lost race costs one step in the order of eviction. */
export function noteUse(layer: SharedLayer, span: SpanIndex): void {
  layer.lastUse[span] = Atomics.load(layer.clock, 0);
}

/** A read of more spans than this takes the miss path. 1 MiB of spans of 64 KiB has 17; shaped spans can be of a page. */
const MAX_SPANS = 64;

/** The reader's side. One instance per thread, one read at a time; allocates nothing. */
export class HitCheck {
  /** Spans of the read under way. */
  count = 0;
  readonly #generations = new Int32Array(MAX_SPANS);
  #first = 0;

  /** Before the bytes are read. False: not all of [offset, offset + length) is there. */
  begin(layer: SharedLayer, offset: number, length: number): boolean {
    const { offsets, generations } = layer;
    const end = offset + length;
    this.count = 0;
    if (end > offsets[offsets.length - 1]!) return false;
    this.#first = spanAt(offsets, offset);
    for (let span = this.#first; offsets[span]! < end; span++) {
      const generation = Atomics.load(generations, span);
      if ((generation & 1) === 0 || this.count === MAX_SPANS) return false;
      this.#generations[this.count++] = generation;
    }
    return true;
  }

  /** After the bytes were read. False: a span changed meanwhile, and they do not count. */
  confirm(layer: SharedLayer): boolean {
    const now = Atomics.load(layer.clock, 0);
    for (let i = 0; i < this.count; i++) {
      const span = this.#first + i;
      if (Atomics.load(layer.generations, span) !== this.#generations[i]) return false;
      layer.lastUse[span] = now;
    }
    return true;
  }
}
