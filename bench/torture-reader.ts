// A reader of npm run torture: reads random files of the mounts, in random ways, and checks every byte.
import { createHash } from 'node:crypto';
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';

export interface ReaderData {
  readonly places: readonly string[];
  readonly files: readonly {
    readonly place: number;
    readonly path: string;
    readonly sha256: string;
    readonly size: number;
  }[];
  /** Some reads may pass by the page cache. */
  readonly direct: boolean;
  /** One Int32: 1 = leave. */
  readonly stop: SharedArrayBuffer;
}

export interface ReaderResult {
  readonly files: number;
  readonly bytes: number;
  readonly failures: readonly string[];
  /** Duration of the longest read. */
  readonly worstMs: number;
}

const { places, files, stop, direct: mayBeDirect } = workerData as ReaderData;
const stopping = new Int32Array(stop);
const failures: string[] = [];
let [count, bytes, worstMs] = [0, 0, 0];

while (Atomics.load(stopping, 0) === 0 && failures.length < 10) {
  const file = files[Math.floor(Math.random() * files.length)]!;
  const path = `${places[file.place]}/${file.path}`;
  // O_DIRECT asks the server for every byte; without it the page cache would answer most reads, which would prove nothing.
  const direct = mayBeDirect && Math.random() < 0.7;
  try {
    const fd = openSync(path, constants.O_RDONLY | (direct ? constants.O_DIRECT : 0));
    try {
      const hash = createHash('sha256');
      const buffer = Buffer.allocUnsafeSlow([4096, 16384, 131072][Math.floor(Math.random() * 3)]!);
      let length = 0;
      for (;;) {
        const started = performance.now();
        const n = readSync(fd, buffer, 0, buffer.length, length);
        worstMs = Math.max(worstMs, performance.now() - started);
        if (n === 0) break;
        hash.update(buffer.subarray(0, n));
        length += n;
      }
      bytes += length;
      const found = hash.digest('hex');
      if (found !== file.sha256) failures.push(`${path}: wrong bytes (${length} of ${file.size}, sha256 ${found})`);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    failures.push(`${path}: ${String(error)}`);
  }
  count++;
}
const result: ReaderResult = { files: count, bytes, failures, worstMs };
parentPort!.postMessage(result);
