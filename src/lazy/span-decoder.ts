import { createHash } from 'node:crypto';
import type { LayerKind } from '../archive/index.js';
import { ClipError, crc32 } from '../bytes/index.js';
import { type CheckpointState, CheckpointStateError, SpanInflater } from '../gzip/index.js';
import { type BlockCheck, checkBlocks } from '../spans/index.js';
import type { ZstdSpanInflater, ZstdStream } from '../zstd/index.js';

/** A span's compressed bytes, and what the archive says of them and of their output. */
export interface CompressedSpan {
  /** Blob bytes ⌊start/8⌋ to ⌈end/8⌉. */
  readonly compressed: Uint8Array;
  readonly sha256: Uint8Array;
  readonly outLength: number;
  readonly crc32: number;
  /** Of a layer of data blocks, in place of `sha256` and `crc32`: its bytes hold their own checksums. */
  readonly blocks?: BlockCheck | null;
}

/** A span that stands on its own. */
export interface SingleSpan extends CompressedSpan {
  readonly kind: Exclude<LayerKind, 'zstd-stream'>;
  /** Bit of the first byte at which the span starts. */
  readonly startBit: number;
  /** NO_STATE for all kinds but gzip. */
  readonly state: CheckpointState;
}

/** What is wrong with a span. Never the digest that was found: it would tell a byte of data that the archive's author cannot read. */
export type SpanFault =
  | { readonly status: 'digest-mismatch' }
  /** The checkpoint state is not the one that the span table names. */
  | { readonly status: 'bad-state'; readonly detail: string }
  /** The compressed bytes are right, but do not inflate to what the archive says. */
  | { readonly status: 'bad-content'; readonly detail: string };

/** Gets views of the output in order, each valid only during the call. */
export type Output = (view: Uint8Array) => void;

/** libzstd is a WebAssembly module of its own, which a thread loads when the first zstd span comes. */
export type ZstdModule = typeof import('../zstd/index.js');

/**
 * Verifies the compressed bytes, inflates them, and verifies the output (docs/architecture.md, "Invariant 1"). Output is handed out before it
 * is verified. One instance per thread.
 */
export class SpanDecoder {
  #gzip: SpanInflater | null = null;
  #zstdModule: ZstdModule | null = null;
  #zstd: ZstdSpanInflater | null = null;

  get hasZstd(): boolean {
    return this.#zstdModule !== null;
  }

  async loadZstd(): Promise<void> {
    if (this.#zstdModule !== null) return;
    const module = await import('../zstd/index.js');
    module.compileZstd();
    this.#zstdModule = module;
  }

  /** @returns null when all is right. @throws what `output` throws */
  decode(span: SingleSpan, output: Output): SpanFault | null {
    return verified(span, output, (take) => this.#inflate(span, take));
  }

  /** The decoder of a stream, at its start. loadZstd() first. */
  newStream(): ZstdStream {
    return new this.#zstdModule!.ZstdStream();
  }

  /** The next span of a stream. After a fault the stream is of no more use. @throws what `output` throws */
  decodeNext(stream: ZstdStream, span: CompressedSpan, output: Output): SpanFault | null {
    return verified(span, output, (take) => stream.inflate(span.compressed, span.outLength, take));
  }

  /** @returns the CRC-32 of the output */
  #inflate({ kind, compressed, startBit, state, outLength }: SingleSpan, output: Output): number {
    switch (kind) {
      case 'blocks':
        output(compressed);
        return 0;
      case 'tar':
        output(compressed);
        return crc32(compressed);
      case 'gzip':
        this.#gzip ??= new SpanInflater();
        return this.#gzip.inflate(compressed, startBit, state, outLength, output);
      case 'zstd':
        this.#zstd ??= new this.#zstdModule!.ZstdSpanInflater();
        return this.#zstd.inflate(compressed, outLength, output);
    }
  }
}

function verified(span: CompressedSpan, output: Output, inflate: (take: Output) => number): SpanFault | null {
  const { compressed, sha256, outLength, blocks = null } = span;
  if (blocks !== null) {
    const detail = checkBlocks(compressed, blocks);
    if (detail !== null) return { status: 'bad-content', detail };
  } else if (!createHash('sha256').update(compressed).digest().equals(sha256)) return { status: 'digest-mismatch' };
  let length = 0;
  let outputFailed = false;
  const take = (view: Uint8Array): void => {
    length += view.length;
    if (length > outLength) throw new ClipError('BAD_FORMAT', `it yields more than ${outLength} bytes`);
    try {
      output(view);
    } catch (error) {
      outputFailed = true;
      throw error;
    }
  };
  let crc: number;
  try {
    crc = inflate(take);
  } catch (error) {
    if (outputFailed || !(error instanceof ClipError)) throw error;
    return { status: error instanceof CheckpointStateError ? 'bad-state' : 'bad-content', detail: error.message };
  }
  if (length !== outLength)
    return { status: 'bad-content', detail: `it yields ${length} bytes, ${outLength} expected` };
  return blocks !== null || crc === span.crc32
    ? null
    : { status: 'bad-content', detail: 'its inflated bytes have another CRC-32' };
}
