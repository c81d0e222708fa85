import type { LayerKind } from '../archive/index.js';
import { crc32 } from '../bytes/index.js';

/** A checkpoint's block header and sparse window, not yet deflated. */
export interface RawState {
  readonly header: Uint8Array;
  readonly window: Uint8Array;
}

/** Growing span columns of a layer that is being read. */
export class SpanRecorder {
  readonly layerOffset: number[] = [];
  readonly bitOffset: number[] = [];
  readonly crc32: number[] = [];
  #reported = 0;

  boundary(layerOffset: number, bitOffset: number): void {
    this.layerOffset.push(layerOffset);
    this.bitOffset.push(bitOffset);
  }

  /** Boundaries since the last call, in bits: what the digests need to know. */
  takeBoundaries(): number[] {
    const fresh = this.bitOffset.slice(this.#reported);
    this.#reported = this.bitOffset.length;
    return fresh;
  }
}

/** What has been learnt of a layer once its last byte was read. */
export interface LayerSpans {
  readonly kind: LayerKind;
  readonly layerOffset: Float64Array;
  readonly bitOffset: Float64Array;
  readonly crc32: Uint32Array;
}

/** Turns a blob's bytes into the tar, and notes where spans begin. */
export interface LayerDecoder {
  push(bytes: Uint8Array, onOutput: (view: Uint8Array) => void): void;
  /** Throws FormatError when the blob is not complete. */
  finish(): { warnings: readonly string[] };
  readonly spans: SpanRecorder;
  /** Settled once `finish` has been called. */
  readonly kind: LayerKind;
  /** Checkpoint states since the last call, of spans 1, 2, 3 … in order; span 0 never needs one. */
  takeStates(): RawState[];
}

/** Where spans of a layer without checkpoints end: every `spanBytes`, or at `cuts`. */
export class SpanSplitter {
  readonly #spanBytes: number;
  readonly #cuts: Float64Array | undefined;
  #cut = 0;

  constructor(spanBytes: number, cuts: Float64Array | undefined) {
    this.#spanBytes = spanBytes;
    this.#cuts = cuts;
  }

  /** The first end beyond `offset`. */
  next(offset: number): number {
    const cuts = this.#cuts;
    if (cuts === undefined) return offset - (offset % this.#spanBytes) + this.#spanBytes;
    while (this.#cut < cuts.length && cuts[this.#cut]! <= offset) this.#cut++;
    return cuts[this.#cut] ?? Number.POSITIVE_INFINITY;
  }
}

/** An uncompressed layer: spans are pieces of the blob itself. */
export class PlainDecoder implements LayerDecoder {
  readonly kind = 'tar';
  readonly spans = new SpanRecorder();
  readonly #splitter: SpanSplitter;
  #position = 0;
  #end: number;
  #crc = 0;

  constructor(spanBytes: number, cuts: Float64Array | undefined) {
    this.#splitter = new SpanSplitter(spanBytes, cuts);
    this.#end = this.#splitter.next(0);
    this.spans.boundary(0, 0);
  }

  push(bytes: Uint8Array, onOutput: (view: Uint8Array) => void): void {
    let from = 0;
    while (from < bytes.length) {
      if (this.#position === this.#end) this.#endSpan();
      const piece = bytes.subarray(from, from + Math.min(bytes.length - from, this.#end - this.#position));
      this.#crc = crc32(piece, this.#crc);
      this.#position += piece.length;
      from += piece.length;
    }
    onOutput(bytes);
  }

  #endSpan(): void {
    this.spans.crc32.push(this.#crc);
    this.spans.boundary(this.#position, this.#position * 8);
    this.#crc = 0;
    this.#end = this.#splitter.next(this.#position);
  }

  finish(): { warnings: readonly string[] } {
    if (this.#position > this.spans.layerOffset.at(-1)!) this.#endSpan();
    return { warnings: [] };
  }

  takeStates(): RawState[] {
    return [];
  }
}
