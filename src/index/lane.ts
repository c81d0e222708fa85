import { MessageChannel, Worker } from 'node:worker_threads';
import { ClipError, toHex } from '../bytes/index.js';
import { DETECT_BYTES } from './detect.js';
import {
  type DecodeResult,
  type DigestResult,
  type FromWorker,
  fromPlainError,
  type LayerJob,
  SLOT_BYTES,
  SLOTS,
} from './messages.js';

export interface LaneResult {
  readonly decoded: DecodeResult;
  readonly digests: DigestResult;
}

interface Active {
  readonly name: string;
  readonly onDone: (bytes: number) => void;
  readonly resolve: (result: LaneResult) => void;
  readonly reject: (error: Error) => void;
  decoded: DecodeResult | null;
  digests: DigestResult | null;
}

/**
 * Two threads and a ring of shared memory that index one layer after the other: the decode worker inflates and reads the tar,
 * the digest worker hashes what has been decoded and gives its slot back. After a failure a lane is of no more use.
 */
export class Lane {
  readonly #ring = new SharedArrayBuffer(SLOT_BYTES * SLOTS);
  readonly #bytes = new Uint8Array(this.#ring);
  readonly #decode: Worker;
  readonly #digest: Worker;
  readonly #free: number[] = Array.from({ length: SLOTS }, (_, i) => i);
  #wake: (() => void) | null = null;
  #active: Active | null = null;
  #failure: Error | null = null;

  constructor() {
    const { port1, port2 } = new MessageChannel();
    const ring = this.#ring;
    this.#decode = new Worker(new URL('./decode-worker.js', import.meta.url), {
      workerData: { ring, digests: port1 },
      transferList: [port1],
      name: 'clip-decode',
    });
    this.#digest = new Worker(new URL('./digest-worker.js', import.meta.url), {
      workerData: { ring, decoded: port2 },
      transferList: [port2],
      name: 'clip-digest',
    });
    for (const worker of [this.#decode, this.#digest]) {
      worker.on('message', (message: FromWorker) => this.#receive(message));
      worker.on('error', (error) => this.#fail(error instanceof Error ? error : new Error(String(error))));
      worker.on('exit', (code) => this.#fail(new Error(`an indexing thread ended with code ${code}`)));
    }
  }

  #receive(message: FromWorker): void {
    const active = this.#active;
    switch (message.type) {
      case 'slot-free':
        this.#free.push(message.slot);
        active?.onDone(message.length);
        this.#wake?.();
        return;
      case 'decode-result':
        if (active !== null) active.decoded = message;
        break;
      case 'digest-result':
        if (active !== null) active.digests = message;
        break;
      case 'failed':
        this.#fail(fromPlainError(message.error, active?.name ?? 'layer'));
        return;
    }
    if (active?.decoded && active.digests) {
      this.#active = null;
      active.resolve({ decoded: active.decoded, digests: active.digests });
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#active?.reject(this.#failure);
    this.#wake?.();
  }

  async #takeSlot(): Promise<number> {
    while (this.#failure === null) {
      const slot = this.#free.pop();
      if (slot !== undefined) return slot;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = null;
    }
    throw this.#failure;
  }

  /**
   * Indexes one layer. `onDone` is told of compressed bytes that are decoded and hashed. Rejects with what the blob or either
   * thread did wrong; the layer's digest is for the caller to check.
   */
  async index(job: LayerJob, blob: AsyncIterable<Uint8Array>, onDone: (bytes: number) => void): Promise<LaneResult> {
    if (this.#failure !== null) throw this.#failure;
    const done = new Promise<LaneResult>((resolve, reject) => {
      this.#active = { name: `layer ${job.digest}`, onDone, resolve, reject, decoded: null, digests: null };
    });
    done.catch(() => {}); // whoever feeds sees the failure first
    this.#decode.postMessage(job);
    await this.#feed(blob);
    return done;
  }

  async #feed(blob: AsyncIterable<Uint8Array>): Promise<void> {
    let slot = await this.#takeSlot();
    let fill = 0;
    for await (const chunk of blob) {
      let at = 0;
      while (at < chunk.length) {
        if (fill === SLOT_BYTES) {
          this.#send(slot, fill, false);
          slot = await this.#takeSlot();
          fill = 0;
        }
        const piece = chunk.subarray(at, at + SLOT_BYTES - fill);
        this.#bytes.set(piece, slot * SLOT_BYTES + fill);
        fill += piece.length;
        at += piece.length;
      }
      if (this.#failure !== null) throw this.#failure;
    }
    this.#send(slot, fill, true);
  }

  #send(slot: number, length: number, last: boolean): void {
    this.#decode.postMessage({ type: 'chunk', slot, length, last });
  }

  async close(): Promise<void> {
    this.#failure ??= new ClipError('ABORTED', 'indexing was ended');
    await Promise.all([this.#decode.terminate(), this.#digest.terminate()]);
  }
}

/** "sha256:…" of 32 bytes. */
export function digestText(sha256: Uint8Array): string {
  return `sha256:${toHex(sha256)}`;
}

// A slot holds more than detection wants to see at once, and only a blob's last slot may be shorter.
if (SLOT_BYTES < DETECT_BYTES) throw new RangeError('slots are too small to tell a tar by');
