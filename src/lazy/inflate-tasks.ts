import type { BlockCheck, PartSum, SpanTarget } from '../spans/index.js';
import type { CompressedSpan, SingleSpan, SpanFault } from './span-decoder.js';

/** Why bytes are wanted. The smaller goes first, in the request queue and in the inflate queue. */
export const Priority = { demand: 0, readahead: 1, prefetch: 2, speculation: 3, fill: 4 } as const;
export type Priority = (typeof Priority)[keyof typeof Priority];
export const PRIORITIES = [
  Priority.demand,
  Priority.readahead,
  Priority.prefetch,
  Priority.speculation,
  Priority.fill,
] as const;

/** Verify a span's compressed bytes, inflate them, verify and store the result. */
export interface InflateTask extends SingleSpan {
  readonly type: 'inflate';
  readonly target: SpanTarget;
}

/** Check what an earlier run left in a cache file. */
export interface CheckTask {
  readonly type: 'check';
  readonly outLength: number;
  readonly crc32: number;
  /** Of a layer of data blocks, in place of `crc32`. */
  readonly blocks: BlockCheck | null;
  readonly target: SpanTarget;
}

/** One span of a stream that can only be decoded in order. The first of a stream makes its decoder, `end` frees it. */
export interface StreamTask extends CompressedSpan {
  readonly type: 'stream';
  readonly stream: number;
  /** Null: the span is present already, its bytes only advance the decoder. */
  readonly target: SpanTarget | null;
}

export interface EndStreamTask {
  readonly type: 'end-stream';
  readonly stream: number;
}

export type Task = InflateTask | CheckTask | StreamTask | EndStreamTask;

export type TaskResult =
  /** In the cache file, generation odd (or nothing was to be kept). `zeros`: it is all zeros, and its place stays a hole. */
  | { readonly status: 'stored'; readonly zeros?: boolean; readonly part?: PartSum | undefined }
  /** Verified bytes; `writeError` says that the cache file would not take them. */
  | {
      readonly status: 'bytes';
      readonly bytes: Uint8Array;
      readonly writeError?: string;
      readonly part?: PartSum | undefined;
    }
  /** A check found other bytes than the archive says, or could not read them (`detail`). */
  | { readonly status: 'absent'; readonly detail?: string }
  | SpanFault
  /** The worker itself is in trouble. */
  | { readonly status: 'failed'; readonly detail: string };

export interface TaskMessage {
  readonly id: number;
  readonly task: Task;
  /** A worker does the most urgent first of the tasks that it was given. */
  priority: Priority;
}

/** A task that was given to a worker has become more urgent. */
export interface RaiseMessage {
  readonly raise: number;
  readonly priority: Priority;
}

/** Main thread → worker. 'load': loads what it may need later. 'keep': keeps its compiled code. 'collect': frees what it was lent. null: the thread ends by itself, after what it was given before. */
export type ToInflate = TaskMessage | RaiseMessage | 'load' | 'keep' | 'collect' | null;

/** A worker's first message: its thread id, by which its CPU time is found. */
export interface HelloMessage {
  readonly thread: number;
}

export interface ResultMessage {
  readonly id: number;
  readonly result: TaskResult;
}

/** 'loaded' answers 'load'. */
export type FromInflate = HelloMessage | ResultMessage | 'loaded';
