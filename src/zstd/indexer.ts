import { FormatError } from '../bytes/index.js';
import { ZstdDecoder } from './decoder.js';
import { FrameScanner } from './scanner.js';

export interface ZstdSummary {
  /**
   * `zstd`: every boundary is at the start of a frame, so every span decodes on its own ({@link ZstdSpanInflater}).
   * `zstd-stream`: spans decode in order from the first ({@link ZstdStream}).
   */
  readonly kind: 'zstd' | 'zstd-stream';
  readonly compressedSize: number;
  readonly layerSize: number;
  readonly warnings: string[];
}

/** A frame that states a length of more than this many spans makes its layer sequential: a small read would decode all of it. */
const MAX_FRAME_SPANS = 8;
/**
 * A frame that does not state its length may have this many spans before its layer becomes sequential. The number is smaller than
 * the one above because the first span of such a layer grows to this size: a digest cannot be cut afterwards.
 */
const MAX_UNSAID_FRAME_SPANS = 4;
/**
 * Skippable frames up to this size are part of the span around them. Longer ones (zstd:chunked's table of contents, at the end)
 * are not worth fetching with it.
 */
const MAX_SKIPPABLE_IN_SPAN = 16 * 1024;
/**
 * A frame longer than this makes its layer sequential whatever `spanBytes` is: a span holds a whole frame, and its length is
 * bounded (docs/format.md, "Limits").
 */
const MAX_FRAME_BYTES = 32 * 1024 * 1024;

/**
 * Decodes a Zstandard stream once, as it comes, and reports where its spans end. One instance per layer, synchronous; its
 * memory is the frames' window (at most 128 MiB) whatever the stream's length.
 *
 * Spans end at the first frame end at or behind each multiple of `spanBytes`; in a sequential layer, at the first block end
 * (at most 128 KiB later). So pushing the compressed bytes of a span into a decoder that has had all before yields exactly
 * that span's output.
 *
 * @example
 * const indexer = new ZstdIndexer({ spanBytes: 2 << 20 });
 * indexer.onBoundary = (layerOffset, byteOffset) => boundaries.push(layerOffset, byteOffset * 8);
 * for await (const chunk of blob) indexer.push(chunk, (view) => tar.push(view));
 * const { kind, layerSize } = indexer.finish(); // calls onBoundary for the end of the last span, unless that is known
 */
export class ZstdIndexer {
  /**
   * Called once at the end of every span, the last one included: before the input goes more than 16 KiB beyond it, and between
   * the span's output and the next one's. The first span starts at 0 and 0. No span is empty.
   *
   * @param layerOffset  in the uncompressed stream
   * @param byteOffset   in the compressed stream: the start of a frame, or in a sequential layer the end of a block
   */
  onBoundary: (layerOffset: number, byteOffset: number) => void = () => {};

  readonly #spanBytes: number;
  readonly #minBytes: number;
  readonly #blobBytes: number;
  readonly #cuts: Float64Array | null;
  #nextCut = 0;
  readonly #decoder = new ZstdDecoder();
  readonly #scanner = new FrameScanner();
  #onOutput: (view: Uint8Array) => void = () => {};

  #produced = 0;
  /** Output at the start of the current span. */
  #spanStart = 0;
  #spanStartByte = 0;
  #target: number;
  /** Output at the start of the current frame. */
  #frameStart = 0;
  /** Behind the last frame that holds data. */
  #dataEnd = 0;
  #sequential = false;

  /**
   * @param options.spanBytes  bytes of output between checkpoints, at least 1
   * @param options.cuts       offsets in the output at which checkpoints are wanted instead, strictly increasing; each moves
   *   on to the next frame or block end
   * @param options.minBytes   compressed bytes that a span must have: it goes on until it has them
   * @param options.blobBytes  length of the stream, so that the last span is not shorter either
   */
  constructor(options: { spanBytes: number; cuts?: Float64Array; minBytes?: number; blobBytes?: number }) {
    if (!(options.spanBytes >= 1)) throw new RangeError(`spanBytes ${options.spanBytes}`);
    this.#spanBytes = options.spanBytes;
    this.#cuts = options.cuts ?? null;
    this.#minBytes = options.minBytes ?? 0;
    this.#blobBytes = options.blobBytes ?? Number.POSITIVE_INFINITY;
    this.#target = this.#cutAfter(0);
  }

  #cutAfter(offset: number): number {
    const cuts = this.#cuts;
    if (cuts === null) return offset + this.#spanBytes - (offset % this.#spanBytes);
    while (this.#nextCut < cuts.length && cuts[this.#nextCut]! <= offset) this.#nextCut++;
    return cuts[this.#nextCut] ?? Number.POSITIVE_INFINITY;
  }

  /**
   * Takes the next compressed bytes, in any pieces. `onOutput` gets views into WASM memory, valid only during the call:
   * together, the whole uncompressed stream in order.
   * @throws FormatError naming the fault and its offset in the compressed stream; ClipError UNSUPPORTED for a dictionary or a
   *   window beyond 128 MiB
   */
  push(input: Uint8Array, onOutput: (view: Uint8Array) => void): void {
    this.#onOutput = onOutput;
    const scanner = this.#scanner;
    let fed = 0;
    let at = 0;
    /** Gives the decoder everything up to `at`. */
    const feed = (): void => {
      if (at === fed) return;
      const piece = fed === 0 && at === input.length ? input : input.subarray(fed, at);
      fed = at;
      this.#decoder.push(piece, this.#output);
    };
    for (;;) {
      const before = scanner.offset;
      const event = scanner.scan(input, at);
      at += scanner.offset - before;
      switch (event) {
        case 'none':
          feed();
          return;
        case 'frame':
          this.#beginFrame();
          break;
        case 'block':
          // A block that cannot reach the target is not worth a call of its own.
          if (scanner.bound >= this.#target) {
            feed();
            this.#endBlock();
          }
          break;
        case 'frame-end':
          feed();
          this.#dataEnd = scanner.offset;
          scanner.bound = this.#produced;
          if (this.#produced >= this.#target) this.#cut(scanner.offset);
          break;
        case 'skippable':
          feed();
          if (scanner.frameEnd - this.#dataEnd > MAX_SKIPPABLE_IN_SPAN) this.#cut(this.#dataEnd);
          break;
      }
    }
  }

  readonly #output = (view: Uint8Array): void => {
    this.#produced += view.length;
    this.#onOutput(view);
  };

  #beginFrame(): void {
    const { contentSize } = this.#scanner;
    this.#frameStart = this.#produced;
    const limit = Math.min(MAX_FRAME_SPANS * this.#spanBytes, MAX_FRAME_BYTES);
    if (contentSize !== null && contentSize > limit) this.#sequential = true;
  }

  #endBlock(): void {
    const scanner = this.#scanner;
    // The output so far is certain: the bound counts from it.
    scanner.bound = this.#produced;
    if (this.#produced < this.#target) return;
    const limit = Math.min(MAX_UNSAID_FRAME_SPANS * this.#spanBytes, MAX_FRAME_BYTES);
    if (scanner.contentSize === null && this.#produced - this.#frameStart >= limit) this.#sequential = true;
    if (this.#sequential) this.#cut(scanner.offset);
  }

  #cut(byteOffset: number): void {
    if (this.#produced === this.#spanStart) return;
    if (this.#isLong(byteOffset) && this.#blobBytes - byteOffset >= this.#minBytes) this.#endSpan(byteOffset);
  }

  /** Whether the span at hand is long enough to end here. */
  #isLong(byteOffset: number): boolean {
    return byteOffset - this.#spanStartByte >= this.#minBytes;
  }

  #endSpan(byteOffset: number): void {
    this.#spanStart = this.#produced;
    this.#spanStartByte = byteOffset;
    this.#target = this.#cutAfter(this.#produced);
    this.onBoundary(this.#produced, byteOffset);
  }

  /** @throws FormatError when the input ended too early */
  finish(): ZstdSummary {
    const scanner = this.#scanner;
    if (!scanner.complete) {
      throw new FormatError(
        'zstd stream',
        scanner.offset,
        `it ends within the frame that began at byte ${scanner.frameStart}`,
      );
    }
    // A span that would be too short takes the skippable frames at the end along.
    const end = this.#isLong(this.#dataEnd) ? this.#dataEnd : scanner.offset;
    if (this.#produced > this.#spanStart) this.#endSpan(end);
    return {
      kind: this.#sequential ? 'zstd-stream' : 'zstd',
      compressedSize: scanner.offset,
      layerSize: this.#produced,
      warnings: [],
    };
  }
}
