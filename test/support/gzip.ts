import { crc32 } from 'node:zlib';
import {
  encodeCheckpointState,
  type GzipCheckpoint,
  GzipIndexer,
  KernelMemory,
  type KernelShape,
  OutputSums,
  SpanInflater,
} from '../../src/gzip/index.js';

export interface IndexedGzip {
  readonly output: Buffer;
  readonly checkpoints: readonly GzipCheckpoint[];
  /** Of the span that ends at each boundary, then of the rest after the last one. */
  readonly crc32s: readonly number[];
  readonly warnings: readonly string[];
}

export interface IndexGzipOptions {
  readonly spanBytes?: number;
  readonly cuts?: Float64Array | undefined;
  readonly minBytes?: number;
  /** Bytes given at a time. */
  readonly step?: number;
  /** In shared memory of this shape, as a lane has it: the pieces lie in its slots, and are as long at most. */
  readonly shape?: KernelShape;
  readonly onView?: (view: Uint8Array) => void;
}

/**
 * Indexes `input`, given in pieces, and checks the trailers of its members.
 * @throws the errors of the indexer, the sums and `onView`
 */
export function indexGzip(input: Uint8Array, options: IndexGzipOptions = {}): IndexedGzip {
  const { shape, spanBytes = 1 << 20, cuts, minBytes = 0 } = options;
  const memory = shape === undefined ? undefined : KernelMemory.make(shape, true);
  const step = Math.max(1, Math.min(options.step ?? input.length, shape?.inBytes ?? Number.POSITIVE_INFINITY));
  const checkpoints: GzipCheckpoint[] = [];
  const views: Uint8Array[] = [];
  const crc32s: number[] = [];
  const sums = new OutputSums();
  const indexer = new GzipIndexer(
    { spanBytes, cuts, minBytes, blobBytes: input.length, ...(memory && { memory }) },
    {
      output: (view) => {
        options.onView?.(view);
        sums.push(view);
        views.push(view.slice());
      },
      boundary: () => void crc32s.push(sums.endSpan()),
      checkpoint: (checkpoint) => void checkpoints.push(checkpoint),
      member: (trailer) => sums.endMember(trailer),
    },
  );
  for (let at = 0, piece = 0; at < input.length; at += step, piece++) {
    const bytes = input.subarray(at, at + step);
    const slot = memory?.slot(piece % memory.shape.inSlots, bytes.length);
    slot?.set(bytes);
    indexer.push(slot ?? bytes);
    slot?.fill(0xff); // its owner may use it for something else at once
  }
  const { compressedSize, layerSize, warnings } = indexer.finish();
  crc32s.push(sums.endSpan());
  const output = Buffer.concat(views);
  if (compressedSize !== input.length) throw new Error(`compressedSize ${compressedSize} of ${input.length}`);
  if (layerSize !== output.length) throw new Error(`layerSize ${layerSize} of ${output.length}`);
  return { output, checkpoints, crc32s, warnings };
}

const inflater = new SpanInflater();
const NOTHING = new Uint8Array(0);

/** Inflates every span on its own, from its stored state, and throws unless it gives the bytes that the whole stream gave. */
export function checkSpans(input: Uint8Array, indexed: IndexedGzip): void {
  const { output, checkpoints } = indexed;
  if (output.length === 0) return;
  const starts = [{ layerOffset: 0, bitOffset: 0, header: NOTHING, window: NOTHING }, ...checkpoints];
  for (let i = 0; i < starts.length; i++) {
    const { layerOffset, bitOffset, header, window } = starts[i]!;
    const next = checkpoints[i];
    const end = next?.layerOffset ?? output.length;
    const compressed = input.subarray(Math.floor(bitOffset / 8), next ? Math.ceil(next.bitOffset / 8) : input.length);
    const views: Uint8Array[] = [];
    const state = encodeCheckpointState(header, window);
    const sum = inflater.inflate(compressed, bitOffset % 8, state, end - layerOffset, (view) =>
      views.push(view.slice()),
    );
    const want = output.subarray(layerOffset, end);
    if (!Buffer.concat(views).equals(want)) throw new Error(`span ${i} at ${layerOffset} differs from the stream`);
    const recorded = indexed.crc32s[i];
    if (sum !== recorded || sum !== crc32(want)) throw new Error(`the CRC-32 of span ${i} at ${layerOffset}`);
  }
}

/** Bits of a deflate stream, least significant first; Huffman codewords go most significant bit first (RFC 1951 §3.1.1). */
export class BitWriter {
  readonly #bits: number[] = [];

  bits(value: number, count: number): this {
    for (let i = 0; i < count; i++) this.#bits.push(Math.floor(value / 2 ** i) & 1);
    return this;
  }

  code(value: number, length: number): this {
    for (let i = length - 1; i >= 0; i--) this.#bits.push((value >> i) & 1);
    return this;
  }

  align(): this {
    while (this.#bits.length % 8 !== 0) this.#bits.push(0);
    return this;
  }

  /** A byte of a stored block; the writer must be aligned. */
  bytes(bytes: Uint8Array): this {
    for (const byte of bytes) this.bits(byte, 8);
    return this;
  }

  get length(): number {
    return this.#bits.length;
  }

  finish(): Uint8Array {
    this.align();
    const bytes = new Uint8Array(this.#bits.length / 8);
    this.#bits.forEach((bit, i) => {
      bytes[i >> 3]! |= bit << (i & 7);
    });
    return bytes;
  }
}

/** A gzip member around raw deflate data. `of` is the inflated data, for the trailer. */
export function gzipMember(deflated: Uint8Array, of: Uint8Array): Buffer {
  const trailer = Buffer.alloc(8);
  trailer.writeUInt32LE(crc32(of), 0);
  trailer.writeUInt32LE(of.length % 2 ** 32, 4);
  return Buffer.concat([Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]), deflated, trailer]);
}

/** `length` bytes that look like a layer: words, runs, records that resemble each other, noise. Always the same. */
export function layerLike(length: number, seed = 1): Buffer {
  const out = Buffer.alloc(length);
  let state = seed >>> 0;
  const next = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const words = Array.from({ length: 200 }, () =>
    Buffer.from(
      next(2 ** 31)
        .toString(36)
        .slice(0, 1 + next(6)),
    ),
  );
  let at = 0;
  while (at < length) {
    const kind = next(20);
    const n = 1 + next(kind === 0 ? 5000 : 300);
    if (kind === 0) out.fill(next(256), at, Math.min(length, at + n));
    else if (kind === 1) for (let i = 0; i < n && at + i < length; i++) out[at + i] = next(256);
    else if (kind < 8 && at > 0) {
      const back = 1 + next(Math.min(at, 60000));
      for (let i = 0; i < n && at + i < length; i++) out[at + i] = out[at + i - back]!;
    } else {
      let i = 0;
      while (i < n && at + i < length) {
        const word = words[Math.min(next(200), next(200))]!;
        i += word.copy(out, at + i);
        if (at + i < length) out[at + i++] = 32;
      }
    }
    at += n;
  }
  return out;
}
