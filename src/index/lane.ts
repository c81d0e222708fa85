import { MessageChannel, Worker } from 'node:worker_threads';
import { ClipError, toHex } from '../bytes/index.js';
import { KernelMemory } from '../gzip/index.js';
import type { BlobTarget } from '../oci/index.js';
import { type FoundNames, readNames } from '../startup/index.js';
import { DETECT_BYTES } from './detect.js';
import {
  type ChunkMessage,
  closeLane,
  type FromDigest,
  fromPlainError,
  LANE_SHAPE,
  type LaneShared,
  type LayerJob,
  type LayerResult,
  type ToDecode,
} from './lane-protocol.js';

export interface LaneResult extends Omit<LayerResult, 'names'> {
  readonly names: readonly FoundNames[];
}

/** Gets the compressed bytes since the last call, and the bytes of the tar so far. */
export type LaneProgress = (bytes: number, uncompressed: number) => void;

/** A layer under way in a lane. */
interface Active {
  readonly name: string;
  readonly onDone: LaneProgress;
  readonly resolve: (result: LaneResult) => void;
  readonly names: FoundNames[];
}

/**
 * Two threads with shared memory, which index one layer after the other: the decode worker inflates, the digest worker computes all
 * sums and reads the tar. After a failure a lane can only be closed.
 */
export class Lane {
  readonly #buffers = KernelMemory.make(LANE_SHAPE, true);
  readonly #decode: Worker;
  readonly #digest: Worker;
  readonly #free: number[] = Array.from({ length: LANE_SHAPE.inSlots }, (_, i) => i);
  /** Layers without a result yet, in their order. */
  readonly #active: Active[] = [];
  readonly #shared: LaneShared;
  readonly #ended: Promise<unknown>;
  readonly #failed: Promise<never>;
  #fail!: (error: Error) => void;
  #failure: Error | null = null;
  /** The slot being filled, its fill, and the next slot: the source waits only if there is no next one. */
  #slot: number;
  #fill = 0;
  #spare: number | null;
  #wake: (() => void) | null = null;

  constructor() {
    this.#failed = new Promise<never>((_, reject) => {
      this.#fail = (error) => {
        this.#failure ??= error;
        reject(this.#failure);
        this.#wake?.();
      };
    });
    this.#failed.catch(() => {}); // reported by feed() and index()
    const { port1, port2 } = new MessageChannel();
    this.#shared = {
      memory: this.#buffers.memory,
      done: new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)),
    };
    this.#decode = new Worker(new URL('./decode-worker.js', import.meta.url), {
      workerData: { ...this.#shared, digests: port1 },
      transferList: [port1],
      name: 'clip-decode',
    });
    this.#digest = new Worker(new URL('./digest-worker.js', import.meta.url), {
      workerData: { ...this.#shared, decoded: port2 },
      transferList: [port2],
      name: 'clip-digest',
    });
    this.#digest.on('message', (message: FromDigest) => this.#receive(message));
    const ends = [this.#decode, this.#digest].map((worker) => {
      worker.on('error', (error) => this.#fail(error instanceof Error ? error : new Error(String(error))));
      worker.on('exit', (code) => this.#fail(new Error(`an indexing thread ended with code ${code}`)));
      return new Promise((resolve) => worker.once('exit', resolve));
    });
    this.#ended = Promise.all(ends);
    this.#slot = this.#free.pop()!;
    this.#spare = this.#free.pop()!;
  }

  #receive(message: FromDigest): void {
    const active = this.#active[0];
    switch (message.type) {
      case 'slot-free':
        if (this.#spare === null) {
          this.#spare = message.slot;
          this.#wake?.();
        } else this.#free.push(message.slot);
        if (active === undefined) break;
        readNames(message.names, active.names);
        active.onDone(message.length, message.uncompressed);
        break;
      case 'result':
        this.#active.shift();
        if (active === undefined) break;
        readNames(message.names, active.names);
        active.resolve({ ...message, names: active.names });
        break;
      case 'failed':
        this.#fail(fromPlainError(message.error, active?.name ?? 'layer'));
    }
  }

  readonly #target: BlobTarget = {
    room: () => this.#buffers.slot(this.#slot).subarray(this.#fill),
    filled: (bytes) => {
      this.#fill += bytes;
      return this.#fill === LANE_SHAPE.inBytes ? this.#send(false) : null;
    },
  };

  /** Gives the current slot to the decoder. Returns null if there is a next slot, else a promise of one. */
  #send(last: boolean): Promise<void> | null {
    const message: ChunkMessage = { type: 'chunk', slot: this.#slot, length: this.#fill, last };
    this.#tell(message);
    this.#slot = this.#spare!;
    this.#fill = 0;
    this.#spare = this.#free.pop() ?? null;
    return this.#spare === null ? this.#waitForSpare() : null;
  }

  async #waitForSpare(): Promise<void> {
    while (this.#spare === null) {
      if (this.#failure !== null) throw this.#failure;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = null;
    }
  }

  /**
   * Indexes one layer, whose bytes `read` writes to the given target. `fed` resolves when all bytes are on their way and the next
   * layer may follow, `result` when they are indexed. Both reject with a fault of the blob or of a thread. The caller checks the
   * layer's digest. `onDone` hears of bytes that were decoded and hashed.
   */
  index(
    job: LayerJob,
    read: (target: BlobTarget) => Promise<void>,
    onDone: LaneProgress,
  ): { fed: Promise<void>; result: Promise<LaneResult> } {
    const result = new Promise<LaneResult>((resolve) => {
      this.#active.push({ name: `layer ${job.digest}`, onDone, resolve, names: [] });
    });
    this.#tell(job);
    const feed = async (): Promise<void> => {
      await read(this.#target);
      await this.#send(true);
    };
    return { fed: Promise.race([feed(), this.#failed]), result: Promise.race([result, this.#failed]) };
  }

  #tell(message: ToDecode): void {
    this.#decode.postMessage(message);
  }

  /** Whether the process stays for the threads. */
  ref(): void {
    for (const worker of [this.#decode, this.#digest]) worker.ref();
  }

  unref(): void {
    for (const worker of [this.#decode, this.#digest]) worker.unref();
  }

  /**
   * The threads end by themselves after their current buffer. `terminate()` is not used: Node 20 aborts the whole process if it hits a
   * thread between the creation of a zlib stream and its set-up (node_zlib.cc: "close before init").
   */
  async close(): Promise<void> {
    this.#fail(new ClipError('ABORTED', 'indexing was ended'));
    closeLane(this.#shared);
    this.#tell({ type: 'close' });
    await this.#ended;
  }
}

/** Begun before it was known what to index. */
let waiting: Lane | null = null;

/** Lets the threads of a lane boot while this process finds out what to index. They end with the process if that never happens. */
export function prepareLane(): void {
  waiting = new Lane();
  waiting.unref();
}

/** The lane that was begun, or a new one. */
export function takeLane(): Lane {
  const lane = waiting ?? new Lane();
  waiting = null;
  lane.ref();
  return lane;
}

/** "sha256:…" of 32 bytes. */
export function digestText(sha256: Uint8Array): string {
  return `sha256:${toHex(sha256)}`;
}

// Detection sees the first slot only, and only a blob's last slot may be shorter than this.
if (LANE_SHAPE.inBytes < DETECT_BYTES) throw new RangeError('slots are too small to detect a tar');
