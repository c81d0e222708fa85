import type { SpanColumns } from '../archive/index.js';
import { ClipError, type ErrorCode, FormatError } from '../bytes/index.js';
import type { KernelShape, LinearMemory } from '../gzip/index.js';
import type { LayerReferences } from '../startup/index.js';
import type { EntryTransfer } from '../tar/index.js';
import type { Journal } from './decode-journal.js';
import type { DecodedLayer, RawState } from './layer-decoder.js';

/**
 * The memory that the threads of a lane share. Compressed bytes come from the socket into slots, and are decoded and hashed in place.
 * Eight slots keep network and decoder from waiting for each other's scheduling. The tar is read in its buffers: eight keep the
 * decoder from waiting for a reader that is busy for a moment.
 */
export const LANE_SHAPE: KernelShape = {
  outBuffers: 8,
  outBytes: 1024 * 1024,
  inSlots: 8,
  inBytes: 1024 * 1024,
  sums: 2,
};
/** Its threads, as threads that sum. */
export const [DECODE_THREAD, DIGEST_THREAD] = [0, 1];

export interface LaneShared {
  readonly memory: LinearMemory;
  /** One counter: `decoded` messages that the digest worker has processed. Their output may be overwritten. */
  readonly done: Int32Array<SharedArrayBuffer>;
}

/** More messages than a lane ever has. Added to `done` when the lane is closed, which ends every wait. */
const CLOSED = 2 ** 30;

export function closeLane({ done }: LaneShared): void {
  Atomics.add(done, 0, CLOSED);
  Atomics.notify(done, 0);
}

export function isClosed({ done }: LaneShared): boolean {
  return Atomics.load(done, 0) >= CLOSED;
}

export interface LayerJob {
  readonly type: 'layer';
  readonly digest: string;
  readonly blobBytes: number;
  readonly spanBytes: number;
  readonly cuts: Float64Array | null;
  /** Also compute the digest of the tar and of each file. */
  readonly hashes: boolean;
}

export interface ChunkMessage {
  readonly type: 'chunk';
  readonly slot: number;
  readonly length: number;
  readonly last: boolean;
}

/** Wakes a thread that waits for messages when the lane is closed. A thread at work sees that by `isClosed`. */
export interface CloseMessage {
  readonly type: 'close';
}

/** Main thread → decode worker. */
export type ToDecode = LayerJob | ChunkMessage | CloseMessage;

/** The output decoded since the last message. */
export interface DecodedMessage {
  readonly type: 'decoded';
  readonly journal: Journal;
  readonly states: readonly RawState[];
  /** A slot that is fully decoded, with its length, or null. */
  readonly slot: { readonly index: number; readonly length: number } | null;
}

export interface EndMessage extends DecodedLayer {
  readonly type: 'end';
}

/** Decode worker → digest worker, in the order of the stream: so the first error of a layer is the reported one. */
export type ToDigest = LayerJob | DecodedMessage | EndMessage | Failure;

/** SHA-256 of regular files, by the layer offset at which each file's data begins. */
export interface FileDigests {
  readonly dataOffset: Float64Array;
  readonly sha256: Uint8Array;
  /** Sparse files that have no digest, because of their holes. */
  readonly skipped: number;
}

export interface LayerResult {
  readonly type: 'result';
  readonly spans: SpanColumns;
  /** The checkpoint state of each span as it is stored. */
  readonly states: readonly Uint8Array[];
  readonly blobSha256: Uint8Array;
  readonly entries: EntryTransfer;
  readonly warnings: readonly string[];
  /** Null without hashes. */
  readonly diffSha256: Uint8Array | null;
  readonly files: FileDigests | null;
  readonly references: LayerReferences;
  /** What was found since the last `slot-free` message. */
  readonly names: string;
}

export interface SlotFree {
  readonly type: 'slot-free';
  readonly slot: number;
  readonly length: number;
  /** Bytes of the tar so far. */
  readonly uncompressed: number;
  /** What was found since the last message, for `readNames`. A message of its own would wake the main thread once more. */
  readonly names: string;
}

export interface Failure {
  readonly type: 'failed';
  readonly error: PlainError;
}

/** Digest worker → main thread. */
export type FromDigest = LayerResult | SlotFree | Failure;

/** An error that survives postMessage. */
export interface PlainError {
  readonly message: string;
  readonly code: ErrorCode | null;
  readonly hint: string | undefined;
  readonly format: { readonly what: string; readonly offset: number; readonly detail: string } | null;
  readonly stack: string | undefined;
}

export function toPlainError(error: unknown): PlainError {
  const known = error instanceof ClipError;
  return {
    message: error instanceof Error ? error.message : String(error),
    code: known ? error.code : null,
    hint: known ? error.hint : undefined,
    format: error instanceof FormatError ? { what: error.what, offset: error.offset, detail: error.detail } : null,
    stack: error instanceof Error ? error.stack : undefined,
  };
}

/** Codecs know the fault of the bytes, not their origin. */
const BAD_LAYER_HINT = 'the layer is damaged or was written wrongly: push the image again, or build it again';

/** Restores the error and puts the layer's name in front. */
export function fromPlainError(plain: PlainError, layer: string): Error {
  const { hint } = plain;
  if (plain.format !== null) {
    const { what, offset, detail } = plain.format;
    return new FormatError(`${layer}: ${what}`, offset, detail, { hint: hint ?? BAD_LAYER_HINT });
  }
  if (plain.code !== null) return new ClipError(plain.code, `${layer}: ${plain.message}`, { hint });
  const error = new Error(`${layer}: ${plain.message}`);
  if (plain.stack !== undefined) error.stack = plain.stack;
  return error;
}
