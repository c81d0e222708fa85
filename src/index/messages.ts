import { ClipError, type ErrorCode, FormatError } from '../bytes/index.js';
import type { EntryTransfer } from '../tar/index.js';
import type { Encoding } from './detect.js';
import type { LayerSpans, RawState } from './spans.js';

/** Compressed bytes travel through slots of shared memory: one copy, off the socket. */
export const SLOT_BYTES = 1024 * 1024;
/** Enough that neither the network nor the decoder waits for the other's scheduling. */
export const SLOTS = 8;

export interface LayerJob {
  readonly type: 'layer';
  readonly digest: string;
  readonly spanBytes: number;
  readonly cuts: Float64Array | null;
  /** Also take the digest of the tar and of each file. */
  readonly hashes: boolean;
}

export interface ChunkMessage {
  readonly type: 'chunk';
  readonly slot: number;
  readonly length: number;
  readonly last: boolean;
}

/** Main thread → decode worker. */
export type ToDecode = LayerJob | ChunkMessage;

/** Decode worker → digest worker: about the bytes of one slot, once they are decoded. */
export interface DecodedChunk {
  readonly type: 'decoded';
  readonly slot: number;
  readonly length: number;
  readonly last: boolean;
  readonly boundaries: readonly number[];
  readonly states: readonly RawState[];
}

/** Decode worker → main thread, after the last chunk. */
export interface DecodeResult {
  readonly type: 'decode-result';
  readonly encoding: Encoding;
  readonly spans: LayerSpans;
  readonly entries: EntryTransfer;
  readonly warnings: readonly string[];
  /** With hashes. */
  readonly diffSha256: Uint8Array | null;
  readonly files: FileDigests | null;
}

/** SHA-256 of regular files, by the layer offset at which each file's data begins. */
export interface FileDigests {
  readonly dataOffset: Float64Array;
  readonly sha256: Uint8Array;
}

/** Digest worker → main thread. */
export interface SlotFree {
  readonly type: 'slot-free';
  readonly slot: number;
  readonly length: number;
}

export interface DigestResult {
  readonly type: 'digest-result';
  readonly blobSha256: Uint8Array;
  readonly spanSha256: Uint8Array;
  readonly states: readonly Uint8Array[];
}

export interface Failure {
  readonly type: 'failed';
  readonly error: PlainError;
}

export type FromWorker = DecodeResult | SlotFree | DigestResult | Failure;

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

/** The error again, with the layer it is about named first. */
export function fromPlainError(plain: PlainError, layer: string): Error {
  const hint = plain.hint === undefined ? {} : { hint: plain.hint };
  if (plain.format !== null) {
    const { what, offset, detail } = plain.format;
    return new FormatError(`${layer}: ${what}`, offset, detail, hint);
  }
  if (plain.code !== null) return new ClipError(plain.code, `${layer}: ${plain.message}`, hint);
  const error = new Error(`${layer}: ${plain.message}`);
  if (plain.stack !== undefined) error.stack = plain.stack;
  return error;
}
