import { crc32, crc32Combine } from '../bytes/index.js';
import { WINDOW_BYTES } from './format.js';
import { GzipStream } from './stream.js';

export interface GzipCheckpoint {
  /** Offset in the uncompressed stream; exact, even within a back-reference. */
  readonly layerOffset: number;
  /** Position in the compressed stream, in bits. */
  readonly bitOffset: number;
  /** CRC-32 of the output between the previous checkpoint (or the start) and this one. */
  readonly crc32OfPreviousSpan: number;
  /** Where in a block the checkpoint is, and that block's header: opaque, at most 290 bytes, never empty. */
  readonly header: Uint8Array;
  /** Up to 32 KiB of output that end here, from the first byte that the span refers to, unreferenced bytes zeroed. */
  readonly window: Uint8Array;
}

export interface GzipSummary {
  readonly compressedSize: number;
  readonly layerSize: number;
  /** CRC-32 of the output after the last checkpoint (of all of it, when there was none). */
  readonly lastSpanCrc32: number;
  readonly warnings: string[];
}

/** CRC-32 of a stretch of output, grown piece by piece. */
class Sum {
  crc = 0;
  length = 0;

  add(crc: number, length: number): void {
    if (length === 0) return;
    this.crc = this.length === 0 ? crc : crc32Combine(this.crc, crc, length);
    this.length += length;
  }

  reset(): void {
    this.crc = 0;
    this.length = 0;
  }
}

/**
 * Inflates a gzip stream (RFC 1952, any number of members) once, as it comes, and reports where inflation can start again.
 * One instance per layer, synchronous; its memory does not depend on the stream.
 *
 * The first span starts at bit 0 and needs no state: no checkpoint is reported for it, nor one at the end of the output.
 *
 * @example
 * const indexer = new GzipIndexer({ spanBytes: 2 << 20 });
 * indexer.onCheckpoint = (c) => spans.push(c.layerOffset, c.bitOffset, encodeCheckpointState(c.header, c.window));
 * for await (const chunk of blob) indexer.push(chunk, (view) => tar.push(view));
 * const { layerSize } = indexer.finish();
 */
export class GzipIndexer {
  /** Called once per checkpoint, in order, after at most 32 KiB more of output: then it is known which bytes it needs. */
  onCheckpoint: (checkpoint: GzipCheckpoint) => void = () => {};
  /**
   * Called as soon as the place of a checkpoint is known, before any byte beyond it is decoded: who takes the spans' digests
   * on the way need not keep bytes until the window is known. The last one may come without a checkpoint: then the output
   * ends there.
   */
  onBoundary: (layerOffset: number, bitOffset: number) => void = () => {};

  readonly #spanBytes: number;
  readonly #cuts: Float64Array | null;
  #nextCut = 0;
  readonly #stream: GzipStream;
  #onOutput: (view: Uint8Array) => void = () => {};

  /** The data is summed once, in pieces that end at cuts and at members; spans and members are put together from these. */
  #piece = 0;
  #pieceLength = 0;
  readonly #span = new Sum();
  readonly #member = new Sum();

  #tracked: { layerOffset: number; bitOffset: number; crc32OfPreviousSpan: number; header: Uint8Array } | null = null;

  /**
   * @param options.spanBytes  bytes of output between checkpoints, at least 1
   * @param options.cuts       offsets in the output at which to have checkpoints instead, strictly increasing
   */
  constructor(options: { spanBytes: number; cuts?: Float64Array }) {
    if (!(options.spanBytes >= 1)) throw new RangeError(`spanBytes ${options.spanBytes}`);
    this.#spanBytes = options.spanBytes;
    this.#cuts = options.cuts ?? null;
    this.#stream = new GzipStream({
      output: (view) => this.#output(view),
      limit: (produced) => this.#limit(produced),
      trailer: (crc, size) => this.#trailer(crc, size),
    });
    this.#stream.restart(this.#cutAfter(0));
  }

  /**
   * Takes the next compressed bytes, in any pieces. `onOutput` gets views into WASM memory, valid only during the call:
   * together, the whole uncompressed stream in order.
   * @throws FormatError what is wrong, and where in the compressed stream
   */
  push(input: Uint8Array, onOutput: (view: Uint8Array) => void): void {
    this.#onOutput = onOutput;
    this.#stream.push(input);
  }

  /** @throws FormatError when the input ended too early */
  finish(): GzipSummary {
    this.#stream.end();
    this.#endPiece();
    const { received, produced, warnings } = this.#stream;
    // A checkpoint at the very end would start an empty span.
    const unused = this.#tracked !== null && this.#tracked.layerOffset === produced ? this.#tracked : null;
    if (unused === null) this.#report();
    return {
      compressedSize: received,
      layerSize: produced,
      lastSpanCrc32: unused === null ? this.#span.crc : unused.crc32OfPreviousSpan,
      warnings: [...warnings],
    };
  }

  #cutAfter(offset: number): number {
    const cuts = this.#cuts;
    if (cuts === null) return offset + this.#spanBytes - (offset % this.#spanBytes);
    while (this.#nextCut < cuts.length && cuts[this.#nextCut]! <= offset) this.#nextCut++;
    return cuts[this.#nextCut] ?? Number.POSITIVE_INFINITY;
  }

  #output(view: Uint8Array): void {
    this.#piece = crc32(view, this.#piece);
    this.#pieceLength += view.length;
    this.#onOutput(view);
  }

  #limit(produced: number): number {
    const cut = this.#cutAfter(produced - 1);
    const tracked = this.#tracked;
    // The limit was the cut, or the end of the 32 KiB that may refer to the window.
    if (tracked !== null) this.#report();
    if (cut !== produced) return cut;
    this.#endPiece();
    const { kernel } = this.#stream;
    this.#tracked = {
      layerOffset: produced,
      bitOffset: kernel.bitPosition,
      crc32OfPreviousSpan: this.#span.crc,
      header: kernel.checkpointHeader(),
    };
    this.onBoundary(produced, kernel.bitPosition);
    this.#span.reset();
    kernel.track();
    return Math.min(this.#cutAfter(produced), produced + WINDOW_BYTES);
  }

  #report(): void {
    if (this.#tracked === null) return;
    const window = this.#stream.kernel.endTracking();
    const checkpoint = { ...this.#tracked, window };
    this.#tracked = null;
    this.onCheckpoint(checkpoint);
  }

  #endPiece(): void {
    this.#span.add(this.#piece, this.#pieceLength);
    this.#member.add(this.#piece, this.#pieceLength);
    this.#piece = 0;
    this.#pieceLength = 0;
  }

  #trailer(crc: number, size: number): string | null {
    this.#endPiece();
    const member = { crc: this.#member.crc, length: this.#member.length };
    this.#member.reset();
    if (member.crc !== crc) return `CRC-32 ${hex(crc)} recorded, ${hex(member.crc)} found`;
    if (member.length % 2 ** 32 !== size) return `length ${size} recorded, ${member.length % 2 ** 32} found`;
    return null;
  }
}

function hex(crc: number): string {
  return crc.toString(16).padStart(8, '0');
}
