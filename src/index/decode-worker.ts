import type { MessagePort } from 'node:worker_threads';
import { parentPort, workerData } from 'node:worker_threads';
import { KernelMemory, type MemberTrailer, MemoryCrc32 } from '../gzip/index.js';
import { keepCode } from '../loader/index.js';
import { JournalWriter, NOT_SUMMED } from './decode-journal.js';
import { detectEncoding } from './detect.js';
import { GzipDecoder } from './gzip-decoder.js';
import {
  type ChunkMessage,
  DECODE_THREAD,
  isClosed,
  LANE_SHAPE,
  type LaneShared,
  type LayerJob,
  type ToDecode,
  type ToDigest,
  toPlainError,
} from './lane-protocol.js';
import { type DecodeSink, type LayerDecoder, PlainDecoder, type RawState } from './layer-decoder.js';
import { ZstdDecoder } from './zstd-decoder.js';

/**
 * Decodes slots into buffers, which the digest worker reads in place, and reports in a journal. Decoding is the longest job of an
 * index build, so this thread leaves everything else to others.
 */
export interface DecodeWorkerData extends LaneShared {
  readonly digests: MessagePort;
}

const { memory, done, digests } = workerData as DecodeWorkerData;
const buffers = new KernelMemory(LANE_SHAPE, memory);
const { sum } = new MemoryCrc32(buffers, DECODE_THREAD);
const { outBuffers } = LANE_SHAPE;
/**
 * With this many unread messages the digest worker is behind. This thread then computes the CRC of the bytes it has just decoded:
 * in its own cache that takes less than half the time.
 */
const BEHIND = 5;

class Output implements DecodeSink {
  readonly #journal = new JournalWriter();
  #states: RawState[] = [];
  #posted = 0;
  /** The buffer being filled, and for each buffer the number of the message with its last bytes. */
  #buffer = 0;
  readonly #told = new Array<number>(outBuffers).fill(0);
  /** The end of the output that is copied into the buffer, if it is not decoded in place. */
  #copied = buffers.outStart(0);

  output(view: Uint8Array): void {
    if (view.buffer !== buffers.bytes.buffer) {
      this.#copy(view);
      return;
    }
    const behind = this.#posted - Atomics.load(done, 0) >= BEHIND;
    this.#journal.output(view.byteOffset, view.length, behind ? sum(view) : NOT_SUMMED);
    if (view.byteOffset + view.length === buffers.outEnd(this.#buffer)) this.#nextBuffer();
  }

  #copy(view: Uint8Array): void {
    for (let at = 0; at < view.length; ) {
      const n = Math.min(view.length - at, buffers.outEnd(this.#buffer) - this.#copied);
      const room = buffers.view(this.#copied, n);
      room.set(view.subarray(at, at + n));
      at += n;
      this.#copied += n;
      this.output(room);
    }
  }

  #nextBuffer(): void {
    this.flush(null);
    this.#told[this.#buffer] = this.#posted;
    this.#buffer = (this.#buffer + 1) % outBuffers;
    this.#copied = buffers.outStart(this.#buffer);
    waitFor(this.#told[this.#buffer]!);
  }

  boundary(layerOffset: number, bitOffset: number): void {
    this.#journal.boundary(layerOffset, bitOffset);
  }

  member(trailer: MemberTrailer): void {
    this.#journal.member(trailer);
  }

  state(state: RawState): void {
    this.#states.push(state);
  }

  flush(slot: { index: number; length: number } | null): void {
    const states = this.#states;
    this.#states = [];
    this.#posted++;
    post(
      { type: 'decoded', journal: this.#journal.take(), states, slot },
      states.flatMap(({ header, window }) => [header.buffer as ArrayBuffer, window.buffer as ArrayBuffer]),
    );
  }

  /** For a new layer: waits until all has been read. */
  restart(): void {
    waitFor(this.#posted);
    this.#buffer = 0;
    this.#copied = buffers.outStart(0);
  }
}

function post(message: ToDigest, transfer: ArrayBuffer[] = []): void {
  digests.postMessage(message, transfer);
}

function waitFor(message: number): void {
  for (;;) {
    const now = Atomics.load(done, 0);
    if (isClosed({ memory, done })) throw new Error('the lane is closed');
    if (now >= message) return;
    Atomics.wait(done, 0, now);
  }
}

const output = new Output();
let job!: LayerJob;
let decoder: LayerDecoder | null = null;

/** The first bytes must be DETECT_BYTES or the whole blob. */
function newDecoder(head: Uint8Array): LayerDecoder {
  const spans = { spanBytes: job.spanBytes, blobBytes: job.blobBytes, cuts: job.cuts ?? undefined };
  switch (detectEncoding(head, 'blob')) {
    case 'gzip':
      return new GzipDecoder(spans, buffers, output);
    case 'zstd':
      return new ZstdDecoder(spans, output);
    case 'tar':
    case 'empty':
      return new PlainDecoder(spans, output);
  }
}

function take(message: LayerJob | ChunkMessage): void {
  if (message.type === 'layer') {
    output.restart();
    job = message;
    decoder = null;
    post(message);
    return;
  }
  const { slot, length, last } = message;
  const bytes = buffers.slot(slot, length);
  decoder ??= newDecoder(bytes);
  decoder.push(bytes);
  const decoded = last ? decoder.finish() : null;
  output.flush({ index: slot, length });
  if (decoded !== null) post({ type: 'end', ...decoded });
}

parentPort!.on('message', (message: ToDecode) => {
  if (message.type === 'close' || isClosed({ memory, done })) {
    parentPort!.close();
    digests.close(); // this ends the digest worker, too
    keepCode();
    return;
  }
  try {
    take(message);
  } catch (error) {
    output.flush(null);
    post({ type: 'failed', error: toPlainError(error) });
  }
});
