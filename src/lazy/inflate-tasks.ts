import type { LayerKind } from '../archive/index.js';
import type { CheckpointState } from '../gzip/index.js';

/** Who wants the bytes; the smaller goes first, everywhere: in the request queue and in the inflate queue. */
export const Priority = { demand: 0, readahead: 1, prefetch: 2, fill: 3 } as const;
export type Priority = (typeof Priority)[keyof typeof Priority];
export const PRIORITIES = [Priority.demand, Priority.readahead, Priority.prefetch, Priority.fill] as const;

/** Where a span's inflated bytes go: into a cache file, or (fd −1) back to the I/O thread. */
export interface Target {
  readonly fd: number;
  /** The span's layer offset, which is its place in the file. */
  readonly position: number;
  readonly span: number;
  /** Turned odd once the bytes are written. */
  readonly generations: Int32Array;
}

/** Even → odd: from now on FUSE workers read the span. Only its one filler does this (docs/architecture.md, "Invariant 9"). */
export function publish(target: Target): void {
  const generation = Atomics.load(target.generations, target.span);
  if ((generation & 1) === 0) Atomics.store(target.generations, target.span, (generation + 1) | 0);
}

/** Verify a span's compressed bytes, inflate them, verify and store the result. */
export interface InflateTask {
  readonly type: 'inflate';
  readonly kind: Exclude<LayerKind, 'zstd-stream'>;
  /** Blob bytes ⌊start/8⌋ to ⌈end/8⌉, in shared memory. */
  readonly compressed: Uint8Array;
  readonly sha256: Uint8Array;
  /** start % 8. */
  readonly startBit: number;
  /** Spans of other kinds than gzip have NO_STATE. */
  readonly state: CheckpointState;
  readonly outLength: number;
  readonly crc32: number;
  readonly target: Target;
}

/** Check what an earlier run left in a cache file. */
export interface CheckTask {
  readonly type: 'check';
  readonly outLength: number;
  readonly crc32: number;
  readonly target: Target;
}

/** One span of a stream that can only be decoded in order. The first of a stream makes its decoder, `end` frees it. */
export interface StreamTask {
  readonly type: 'stream';
  readonly stream: number;
  readonly compressed: Uint8Array;
  readonly sha256: Uint8Array;
  readonly outLength: number;
  readonly crc32: number;
  /** Null: the span is present already, its bytes only advance the decoder. */
  readonly target: Target | null;
}

export interface EndStreamTask {
  readonly type: 'end-stream';
  readonly stream: number;
}

export type Task = InflateTask | CheckTask | StreamTask | EndStreamTask;

export type TaskResult =
  /** In the cache file, generation odd (or nothing was to be kept). */
  | { readonly status: 'stored' }
  /** Verified bytes; `writeError` says that the cache file would not take them. */
  | { readonly status: 'bytes'; readonly bytes: Uint8Array; readonly writeError?: string }
  /** A check found other bytes than the archive says, or could not read them (`detail`). */
  | { readonly status: 'absent'; readonly detail?: string }
  /** The compressed bytes are not the archive's. */
  | { readonly status: 'digest-mismatch' }
  /** The checkpoint state is not the one that the span table names. */
  | { readonly status: 'bad-state'; readonly detail: string }
  /** They are, but do not inflate to what the archive says. */
  | { readonly status: 'bad-content'; readonly detail: string }
  /** The worker itself is in trouble. */
  | { readonly status: 'failed'; readonly detail: string };

export interface TaskMessage {
  readonly id: number;
  readonly task: Task;
}

/** Main thread → worker. null: the thread ends by itself, after what it was given before. */
export type ToInflate = TaskMessage | null;

export interface ResultMessage {
  readonly id: number;
  readonly result: TaskResult;
}
