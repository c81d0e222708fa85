import type { ConnectionId, Nid } from '../bytes/index.js';
import type { Placement } from '../erofs/index.js';
import type { SharedLayer } from '../spans/index.js';

/** A mounted image to serve. Everything in it is shared memory or plain data, so that it can be posted to the workers. */
export interface FuseMountSpec {
  /** Unique among the mounts attached at a time; below 2^32 − 1. */
  readonly id: ConnectionId;
  /** /dev/fuse, non-blocking. The caller closes it, after detach(). */
  readonly fd: number;
  /** The EROFS image. */
  readonly tree: SharedArrayBuffer;
  /** By layer index. */
  readonly layers: readonly SharedLayer[];
  readonly placement: Placement | null;
  /** The kernel's EROFS reads the files, with O_DIRECT: by requests of no thread, which no signal interrupts. */
  readonly kernelReads?: boolean | undefined;
  /** Taken over from a server that died: INIT was answered long ago, and its unanswered requests are asked for again. */
  readonly resumed: boolean;
  /** Counts the reads that are answered from the span cache: of a {@link MountHits}. */
  readonly hits?: SharedArrayBuffer | undefined;
}

/** A read of which not all bytes are in the span cache. Its receiver must answer it, by replyData() or replyError(). */
export interface ReadMiss {
  readonly mountId: number;
  readonly unique: bigint;
  readonly nid: Nid;
  readonly offset: number;
  /** As asked for; the file may end before. */
  readonly size: number;
  /** The thread that reads; 0: not known. */
  readonly thread: number;
}

export type ToWorker =
  | { readonly type: 'attach'; readonly sequence: number; readonly mount: FuseMountSpec }
  | { readonly type: 'detach'; readonly sequence: number; readonly id: ConnectionId };

export type FromWorker =
  | { readonly type: 'ready' }
  | { readonly type: 'done'; readonly sequence: number; readonly error: string | null }
  | { readonly type: 'miss'; readonly miss: ReadMiss }
  | { readonly type: 'interrupt'; readonly mountId: number; readonly own: bigint; readonly unique: bigint }
  | { readonly type: 'gone'; readonly mountId: number; readonly errno: number }
  | { readonly type: 'fault'; readonly mountId: number; readonly cause: string };

export interface WorkerSetup {
  /** 1-based. */
  readonly index: number;
  /** Shared by all workers of a pool: see Leadership. */
  readonly leadership: Int32Array;
  /** Likewise: see Companion. */
  readonly companion: Int32Array;
  /** Whether to poll for a moment before sleeping; not on a single core, where it would only keep the reader from running. */
  readonly spin: boolean;
  /** One Int32: 1 = leave. Set before the eventfd is written. */
  readonly stop: Int32Array;
  readonly eventFd: number;
  /** By {@link WorkerCounter}. Only the worker writes. */
  readonly counters: Float64Array;
  readonly control: import('node:worker_threads').MessagePort;
}

export const WorkerCounter = {
  requests: 0,
  /** READ requests answered from the span cache, their bytes, and the spans they touched. */
  hits: 1,
  hitBytes: 2,
  spanHits: 3,
  misses: 4,
  /** Hits undone because a span was evicted under them. */
  changed: 5,
  interrupts: 6,
  /** Requests answered with EIO because the tree is damaged. */
  faults: 7,
} as const;
/** From here on: requests by opcode. Those beyond, which no kernel sends yet, count as the last. */
export const OPERATIONS = 8;
export const MAX_OPCODE = 63;
export const COUNTERS = OPERATIONS + MAX_OPCODE + 1;

export type FuseCounters = Record<keyof typeof WorkerCounter, number>;
