import { type LayerKind, MIN_SPAN_BYTES } from '../archive/index.js';
import type { MemberTrailer } from '../gzip/index.js';

/** A checkpoint's block header and sparse window, not yet deflated. */
export interface RawState {
  readonly header: Uint8Array;
  readonly window: Uint8Array;
}

/** Receives the output of a decoder, in the order of the blob. */
export interface DecodeSink {
  /** The next bytes of the tar. Valid during the call only, unless they lie in memory that the sink owns. */
  output(view: Uint8Array): void;
  /** The end of a span and start of the next one. Called before more than some KiB beyond it are pushed. */
  boundary(layerOffset: number, bitOffset: number): void;
  /** Checkpoint states of spans 1, 2, 3 … in order; span 0 never needs one. */
  state(state: RawState): void;
  /** The end of a gzip member, with the sums of its output. */
  member(trailer: MemberTrailer): void;
}

/** The facts about a layer that are known only when it is decoded. */
export interface DecodedLayer {
  readonly kind: LayerKind;
  readonly warnings: readonly string[];
}

/** Turns a blob's bytes into the tar, and notes where spans begin. The first boundary is at 0, the last at the tar's end. */
export interface LayerDecoder {
  push(bytes: Uint8Array): void;
  /** Throws FormatError when the blob is not complete. */
  finish(): DecodedLayer;
}

/** The rules for the ends of a layer's spans. */
export interface SpanRules {
  /** Bytes of the tar in each. */
  readonly spanBytes: number;
  /** Offsets in the tar at which to end spans instead. */
  readonly cuts: Float64Array | undefined;
  readonly blobBytes: number;
}

/** The ends of spans in an uncompressed layer: every `spanBytes`, or at `cuts`. No span is shorter than MIN_SPAN_BYTES. */
class SpanSplitter {
  readonly #rules: SpanRules;
  #cut = 0;

  constructor(rules: SpanRules) {
    this.#rules = rules;
  }

  /** The end of the span that starts at `offset`. */
  next(offset: number): number {
    let end = offset;
    do end = this.#cutAfter(end);
    while (end - offset < MIN_SPAN_BYTES);
    return end <= this.#rules.blobBytes - MIN_SPAN_BYTES ? end : Number.POSITIVE_INFINITY;
  }

  #cutAfter(offset: number): number {
    const { spanBytes, cuts } = this.#rules;
    if (cuts === undefined) return offset - (offset % spanBytes) + spanBytes;
    while (this.#cut < cuts.length && cuts[this.#cut]! <= offset) this.#cut++;
    return cuts[this.#cut] ?? Number.POSITIVE_INFINITY;
  }
}

/** An uncompressed layer: spans are pieces of the blob itself. */
export class PlainDecoder implements LayerDecoder {
  readonly #sink: DecodeSink;
  readonly #splitter: SpanSplitter;
  #position = 0;
  #start = 0;
  #end: number;

  constructor(spans: SpanRules, sink: DecodeSink) {
    this.#sink = sink;
    this.#splitter = new SpanSplitter(spans);
    this.#end = this.#splitter.next(0);
    sink.boundary(0, 0);
  }

  push(bytes: Uint8Array): void {
    let from = 0;
    while (from < bytes.length) {
      if (this.#position === this.#end) this.#endSpan();
      const piece = bytes.subarray(from, from + Math.min(bytes.length - from, this.#end - this.#position));
      this.#sink.output(piece);
      this.#position += piece.length;
      from += piece.length;
    }
  }

  #endSpan(): void {
    this.#start = this.#position;
    this.#sink.boundary(this.#position, this.#position * 8);
    this.#end = this.#splitter.next(this.#position);
  }

  finish(): DecodedLayer {
    if (this.#position > this.#start) this.#endSpan();
    return { kind: 'tar', warnings: [] };
  }
}
