import { WINDOW_BYTES } from './format.js';
import { Kernel } from './kernel.js';
import type { KernelMemory } from './memory.js';
import { GzipStream } from './stream.js';
import type { MemberTrailer } from './sums.js';

export interface GzipCheckpoint {
  /** Offset in the uncompressed stream; exact, even within a back-reference. */
  readonly layerOffset: number;
  /** Position in the compressed stream, in bits. */
  readonly bitOffset: number;
  /** Where in a block the checkpoint is, and that block's header: opaque, at most 290 bytes, never empty. */
  readonly header: Uint8Array;
  /** Up to 32 KiB of output that end here, from the first byte that the span refers to, unreferenced bytes zeroed. */
  readonly window: Uint8Array;
}

export interface GzipSummary {
  readonly compressedSize: number;
  readonly layerSize: number;
  readonly warnings: string[];
}

/** The events of a stream, in its order. */
export interface GzipEvents {
  /** A view of the next output in the kernel's memory: valid during the call, or until its buffer is filled again. */
  output(view: Uint8Array): void;
  /**
   * The place of a checkpoint, as soon as it is known, before any byte beyond it is decoded. So the spans' digests can be taken
   * without keeping bytes until the window is known. The last one may come without a checkpoint; then the output ends there.
   */
  boundary?(layerOffset: number, bitOffset: number): void;
  /** Once per checkpoint, after at most 32 KiB more of output: then it is known which bytes it needs. */
  checkpoint(checkpoint: GzipCheckpoint): void;
  /** The end of a member. What its trailer says is not checked here: see {@link OutputSums}. */
  member(trailer: MemberTrailer): void;
}

/**
 * Inflates a gzip stream (RFC 1952, any number of members) once, as it comes, and reports where inflation can start again.
 * One instance per layer, synchronous; its memory does not depend on the stream.
 *
 * The first span starts at bit 0 and needs no state: no checkpoint is reported for it, nor one at the end of the output.
 *
 * @example
 * const sums = new OutputSums();
 * const indexer = new GzipIndexer({ spanBytes: 2 << 20 }, {
 *   output: (view) => sums.push(view),
 *   boundary: () => crc32s.push(sums.endSpan()),
 *   checkpoint: (c) => spans.push(c.layerOffset, c.bitOffset, encodeCheckpointState(c.header, c.window)),
 *   member: (trailer) => sums.endMember(trailer),
 * });
 * for await (const chunk of blob) indexer.push(chunk);
 * const { layerSize } = indexer.finish();
 */
export class GzipIndexer {
  readonly #spanBytes: number;
  readonly #minBits: number;
  readonly #blobBits: number;
  #spanStartBit = 0;
  readonly #cuts: Float64Array | null;
  #nextCut = 0;
  readonly #stream: GzipStream;
  readonly #events: GzipEvents;
  #tracked: { layerOffset: number; bitOffset: number; header: Uint8Array } | null = null;

  /**
   * @param options.spanBytes  bytes of output between checkpoints, at least 1
   * @param options.cuts       offsets in the output at which to have checkpoints instead, strictly increasing
   * @param options.minBytes   compressed bytes that a span must have: a cut that would make a shorter one is left out
   * @param options.blobBytes  length of the stream, so that the last span is not shorter either
   * @param options.memory     where to inflate, when others look at it too
   */
  constructor(
    options: {
      spanBytes: number;
      cuts?: Float64Array | undefined;
      minBytes?: number;
      blobBytes?: number;
      memory?: KernelMemory;
    },
    events: GzipEvents,
  ) {
    if (!(options.spanBytes >= 1)) throw new RangeError(`spanBytes ${options.spanBytes}`);
    this.#spanBytes = options.spanBytes;
    this.#cuts = options.cuts ?? null;
    this.#minBits = 8 * (options.minBytes ?? 0);
    this.#blobBits = 8 * (options.blobBytes ?? Number.POSITIVE_INFINITY);
    this.#events = events;
    this.#stream = new GzipStream(
      {
        output: (view) => events.output(view),
        limit: (produced) => this.#limit(produced),
        trailer: (crc32, size, position) => events.member({ crc32, size, position }),
      },
      new Kernel(options.memory),
    );
    this.#stream.restart(this.#cutAfter(0));
  }

  /**
   * Takes the next compressed bytes, in any pieces; a slot of the kernel's memory is not copied.
   * @throws FormatError with the fault and its offset in the compressed stream
   */
  push(input: Uint8Array): void {
    this.#stream.push(input);
  }

  /** @throws FormatError when the input ended too early */
  finish(): GzipSummary {
    this.#stream.end();
    const { received, produced, warnings } = this.#stream;
    // A checkpoint at the very end would start an empty span.
    if (this.#tracked?.layerOffset !== produced) this.#report();
    return { compressedSize: received, layerSize: produced, warnings: [...warnings] };
  }

  #cutAfter(offset: number): number {
    const cuts = this.#cuts;
    if (cuts === null) return offset + this.#spanBytes - (offset % this.#spanBytes);
    while (this.#nextCut < cuts.length && cuts[this.#nextCut]! <= offset) this.#nextCut++;
    return cuts[this.#nextCut] ?? Number.POSITIVE_INFINITY;
  }

  #limit(produced: number): number {
    const { kernel } = this.#stream;
    const bitOffset = kernel.bitPosition;
    if (this.#cutAfter(produced - 1) !== produced || !this.#mayCut(bitOffset)) {
      const tracked = this.#tracked === null ? 0 : this.#tracked.layerOffset + WINDOW_BYTES;
      if (produced < tracked) return Math.min(this.#cutAfter(produced), tracked);
      // Nothing beyond these 32 KiB refers to the window.
      this.#report();
      return this.#cutAfter(produced);
    }
    this.#report();
    this.#tracked = { layerOffset: produced, bitOffset, header: kernel.checkpointHeader() };
    this.#spanStartBit = bitOffset;
    this.#events.boundary?.(produced, bitOffset);
    kernel.track();
    return Math.min(this.#cutAfter(produced), produced + WINDOW_BYTES);
  }

  #mayCut(bitOffset: number): boolean {
    return bitOffset - this.#spanStartBit >= this.#minBits && this.#blobBits - bitOffset >= this.#minBits;
  }

  #report(): void {
    if (this.#tracked === null) return;
    const checkpoint = { ...this.#tracked, window: this.#stream.kernel.endTracking() };
    this.#tracked = null;
    this.#events.checkpoint(checkpoint);
  }
}
