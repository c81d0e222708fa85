import type { MessagePort } from 'node:worker_threads';
import { parentPort, workerData } from 'node:worker_threads';
import { LayerReader } from './layer-reader.js';
import { type ChunkMessage, SLOT_BYTES, type ToDecode, toPlainError } from './messages.js';

/**
 * One layer at a time: slots in, tar entries and span columns out. Every slot goes on to the digest worker, with what it must
 * know of the slot's spans; that worker gives it back to the main thread.
 */
export interface DecodeWorkerData {
  readonly ring: SharedArrayBuffer;
  readonly digests: MessagePort;
}

const { ring, digests } = workerData as DecodeWorkerData;
const main = parentPort!;
let reader: LayerReader | null = null;

function chunk(message: ChunkMessage): void {
  const { slot, length, last } = message;
  const layer = reader!;
  layer.push(new Uint8Array(ring, slot * SLOT_BYTES, length));
  const result = last ? layer.finish() : null;
  const states = layer.takeStates();
  const transfer = states.flatMap((state) => [state.header.buffer, state.window.buffer]) as ArrayBuffer[];
  digests.postMessage({ type: 'decoded', slot, length, last, boundaries: layer.takeBoundaries(), states }, [
    ...new Set(transfer),
  ]);
  if (result !== null) {
    reader = null;
    main.postMessage(result.message, result.transfer);
  }
}

main.on('message', (message: ToDecode) => {
  try {
    if (message.type === 'layer') reader = new LayerReader(message);
    else chunk(message);
  } catch (error) {
    main.postMessage({ type: 'failed', error: toPlainError(error) });
  }
});
