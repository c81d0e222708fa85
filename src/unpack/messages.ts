import type { LayerKind } from '../archive/index.js';
import type { LayerIndex } from '../bytes/index.js';

/** A file's data in a layer, as columns in shared memory, sorted by `start`. A file has several pieces when it is sparse. */
export interface Pieces {
  readonly count: number;
  /** Offsets in the uncompressed layer. */
  readonly start: Float64Array;
  readonly length: Float64Array;
  readonly fileOffset: Float64Array;
  /** Index into the files of the plan. */
  readonly file: Uint32Array;
}

/** The regular files of an image, as columns in shared memory. */
export interface Files {
  readonly nid: Float64Array;
  /** The only piece is all of the file: the worker that has written it finishes it. */
  readonly single: Uint8Array;
  /** Path i, relative to the root directory: bytes [pathAt[i], pathAt[i + 1]) of `paths`. */
  readonly pathAt: Float64Array;
  readonly paths: Uint8Array;
}

/** What a worker is told first. It boots while this is made. */
export interface WorkerPlan {
  readonly directory: string;
  readonly tree: Uint8Array;
  readonly files: Files;
  /** By layer. */
  readonly pieces: readonly Pieces[];
  /** Give files their owners: only root can. */
  readonly owners: boolean;
  /** Of this process: permissions that a new file does not get. */
  readonly umask: number;
}

export interface ChunkSpan {
  /** Offset in the uncompressed layer, and length there. */
  readonly start: number;
  readonly length: number;
  /** Where its bytes lie in the chunk. */
  readonly from: number;
  readonly to: number;
  readonly sha256: Uint8Array;
  readonly crc32: number;
  readonly startBit: number;
  readonly state: { readonly stored: Uint8Array; readonly sha256: Uint8Array };
  /** For errors. */
  readonly name: string;
}

/** Compressed bytes of spans that follow one another. */
export interface Chunk {
  readonly id: number;
  readonly layer: LayerIndex;
  readonly kind: LayerKind;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly spans: readonly ChunkSpan[];
}

/** null: the worker ends by itself. */
export type ToWorker = { readonly plan: WorkerPlan } | Chunk | null;

export interface FromWorker {
  readonly id: number;
  /** Null when all of it is written. */
  readonly error: {
    readonly code: 'DIGEST_MISMATCH' | 'BAD_FORMAT' | 'SYSTEM';
    readonly message: string;
    readonly errno?: string;
  } | null;
}
