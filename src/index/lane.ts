import { MessageChannel, Worker } from 'node:worker_threads';
import { ClipError, toHex } from '../bytes/index.js';
import { KernelMemory } from '../gzip/index.js';
import type { BlobTarget } from '../oci/index.js';
import { type ModuleImports, readImports } from '../startup/index.js';
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

export interface LaneResult extends Omit<LayerResult, 'imports'> {
  readonly imports: readonly ModuleImports[];
}

/** A layer under way in a lane. */
interface Active {
  readonly name: string;
  readonly onDone: (bytes: number) => void;
  readonly resolve: (result: LaneResult) => void;
  readonly imports: ModuleImports[];
}

/**
 * Two threads and their shared memory that index one layer after the other: the decode worker inflates, the digest worker
 * takes all the sums and reads the tar. After a failure a lane is of no more use.
 */
export class Lane {
  readonly #buffers = KernelMemory.make(LANE_SHAPE, true);
  readonly #decode: Worker;
  readonly #digest: Worker;
  readonly #free: number[] = Array.from({ length: LANE_SHAPE.inSlots }, (_, i) => i);
  /** Layers whose results are to come, in their order. */
  readonly #active: Active[] = [];
  readonly #shared: LaneShared;
  readonly #ended: Promise<unknown>;
  readonly #failed: Promise<never>;
  #fail!: (error: Error) => void;
  #failure: Error | null = null;
  /** The slot being filled, how far, and the one to be filled next: only without it must the source wait. */
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
    this.#failed.catch(() => {}); // told by feed() and index()
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
        readImports(message.imports, active.imports);
        active.onDone(message.length);
        break;
      case 'result':
        this.#active.shift();
        if (active === undefined) break;
        readImports(message.imports, active.imports);
        active.resolve({ ...message, imports: active.imports });
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

  /** Gives the slot at hand to the decoder. Returns when there will be a spare one again, unless there is. */
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
   * Indexes one layer, whose bytes `read` puts where it is told. `fed` resolves when all of them are on their way, and the next
   * layer's may follow; `result` when they are indexed. Either rejects with what the blob or a thread did wrong; the layer's
   * digest is for the caller to check. `onDone` is told of compressed bytes that are decoded and hashed.
   */
  index(
    job: LayerJob,
    read: (target: BlobTarget) => Promise<void>,
    onDone: (bytes: number) => void,
  ): { fed: Promise<void>; result: Promise<LaneResult> } {
    const result = new Promise<LaneResult>((resolve) => {
      this.#active.push({ name: `layer ${job.digest}`, onDone, resolve, imports: [] });
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

  /**
   * The threads end by themselves, with the buffer they are at. Node 20 aborts the whole process when `terminate()` meets a
   * thread between the making of a zlib stream and its set-up (node_zlib.cc: "close before init").
   */
  async close(): Promise<void> {
    this.#fail(new ClipError('ABORTED', 'indexing was ended'));
    closeLane(this.#shared);
    this.#tell({ type: 'close' });
    await this.#ended;
  }
}

/** "sha256:…" of 32 bytes. */
export function digestText(sha256: Uint8Array): string {
  return `sha256:${toHex(sha256)}`;
}

// A slot holds more than detection wants to see at once, and only a blob's last slot may be shorter.
if (LANE_SHAPE.inBytes < DETECT_BYTES) throw new RangeError('slots are too small to tell a tar by');
