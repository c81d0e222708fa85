import type { MessagePort } from 'node:worker_threads';
import { parentPort, workerData } from 'node:worker_threads';
import { KernelMemory, type MemberTrailer, MemoryCrc32 } from '../gzip/index.js';
import { keepCode } from '../loader/index.js';
import { type JournalReader, replay } from './decode-journal.js';
import {
  type DecodedMessage,
  DIGEST_THREAD,
  type FromDigest,
  isClosed,
  LANE_SHAPE,
  type LaneShared,
  type ToDigest,
  toPlainError,
} from './lane-protocol.js';
import { LayerDigester } from './layer-digester.js';

/** The partner of a decode worker: does all work that reads the bytes, compressed or not, without decoding them. */
export interface DigestWorkerData extends LaneShared {
  readonly decoded: MessagePort;
}

const { memory, done, decoded } = workerData as DigestWorkerData;
const buffers = new KernelMemory(LANE_SHAPE, memory);
const { sum } = new MemoryCrc32(buffers, DIGEST_THREAD);
let digester!: LayerDigester;
/** After a failure nothing more is reported. */
let failed = false;

const reader: JournalReader = {
  output: (address, length, crc32) => digester.output(buffers.view(address, length), crc32),
  boundary: (layerOffset, bitOffset) => digester.boundary(layerOffset, bitOffset),
  member: (trailer: MemberTrailer) => digester.member(trailer),
};

function post(message: FromDigest, transfer: ArrayBuffer[] = []): void {
  parentPort!.postMessage(message, transfer);
}

function digest({ journal, states, slot }: DecodedMessage): void {
  replay(journal, reader);
  Atomics.add(done, 0, 1);
  Atomics.notify(done, 0);
  if (slot !== null) {
    digester.blob(buffers.slot(slot.index, slot.length));
    const { bytes: uncompressed } = digester;
    post({
      type: 'slot-free',
      slot: slot.index,
      length: slot.length,
      uncompressed,
      names: digester.takeNames(),
    });
  }
  for (const state of states) digester.state(state);
}

function take(message: ToDigest): void {
  switch (message.type) {
    case 'layer':
      digester = new LayerDigester(message.hashes, sum);
      break;
    case 'decoded':
      digest(message);
      break;
    case 'end': {
      const { result, transfer } = digester.finish(message);
      post(result, transfer);
      break;
    }
    case 'failed':
      failed = true;
      post(message);
  }
}

decoded.on('message', (message: ToDigest) => {
  if (failed || isClosed({ memory, done })) return;
  try {
    take(message);
  } catch (error) {
    failed = true;
    post({ type: 'failed', error: toPlainError(error) });
  }
});

decoded.on('close', keepCode);
