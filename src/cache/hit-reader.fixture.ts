import { readSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { noteUse, type SharedLayer } from '../spans/index.js';

/**
 * Reads random stretches by the hit protocol, as a FUSE worker does, until told to stop, and compares every byte that the
 * protocol calls a hit.
 */
const { layers, expected, stop, seed } = workerData as {
  layers: SharedLayer[];
  expected: Uint8Array[];
  stop: Int32Array;
  seed: number;
};
let x = seed;
const random = (n: number): number => {
  x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
  return Math.floor((x / 2 ** 32) * n);
};
const buffer = new Uint8Array(64 * 1024);
let [hits, misses, changed, wrong] = [0, 0, 0, 0];
while (Atomics.load(stop, 0) === 0) {
  const which = random(layers.length);
  const layer = layers[which]!;
  const span = random(layer.generations.length);
  const generation = Atomics.load(layer.generations, span);
  if ((generation & 1) === 0) {
    misses++;
    continue;
  }
  const [start, end] = [layer.offsets[span]!, layer.offsets[span + 1]!];
  const offset = start + random(end - start);
  const length = Math.min(buffer.length, end - offset);
  const count = readSync(layer.fd, buffer, 0, length, offset);
  if (Atomics.load(layer.generations, span) !== generation) {
    changed++;
    continue;
  }
  noteUse(layer, span);
  hits++;
  if (
    count !== length ||
    Buffer.compare(buffer.subarray(0, length), expected[which]!.subarray(offset, offset + length)) !== 0
  ) {
    wrong++;
  }
}
parentPort!.postMessage({ hits, misses, changed, wrong });
