import type { MessagePort } from 'node:worker_threads';
import { parentPort, workerData } from 'node:worker_threads';
import { encodeCheckpointState } from '../gzip/index.js';
import { type DecodedChunk, SLOT_BYTES, toPlainError } from './messages.js';
import { SpanHasher } from './span-hasher.js';

/** Beside each decode worker: the digests of the blob and its spans, and the deflation of checkpoint states. */
export interface DigestWorkerData {
  readonly ring: SharedArrayBuffer;
  readonly decoded: MessagePort;
}

const { ring, decoded } = workerData as DigestWorkerData;
const main = parentPort!;
let hasher = new SpanHasher();
let states: Uint8Array[] = [];

function chunk(message: DecodedChunk): void {
  const { slot, length, last } = message;
  for (const bits of message.boundaries) hasher.boundary(bits);
  hasher.push(new Uint8Array(ring, slot * SLOT_BYTES, length));
  main.postMessage({ type: 'slot-free', slot, length });
  for (const { header, window } of message.states) {
    // A copy of its own: what zlib returns may be part of a larger buffer.
    states.push(new Uint8Array(encodeCheckpointState(header, window)));
  }
  if (!last) return;
  const { blob, spans } = hasher.finish();
  const result = { type: 'digest-result', blobSha256: blob, spanSha256: spans, states };
  main.postMessage(
    result,
    states.map((state) => state.buffer as ArrayBuffer),
  );
  hasher = new SpanHasher();
  states = [];
}

decoded.on('message', (message: DecodedChunk) => {
  try {
    chunk(message);
  } catch (error) {
    main.postMessage({ type: 'failed', error: toPlainError(error) });
  }
});
