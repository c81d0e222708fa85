import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { PackJob, PackResult } from './pack-protocol.js';

/** Reading, hashing and writing keep a core each busy; more threads would wait for the same disk. */
const MAX_WORKERS = 4;
/** Jobs that a worker has: it goes on with the next one while the result of the last is taken in. */
const JOBS_AHEAD = 2;
/** What a worker is given at once: enough that messages do not matter, little enough that all of them end together. */
const JOB_BYTES = 8 * 1024 * 1024;
const JOB_FILES = 512;
/** A worker keeps nothing from one file to the next; by default its heap would be allowed to grow before it is cleaned. */
const WORKER_MEMORY = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 64 };

/** Cuts files in jobs, in order, as they come. */
export function* jobsOf<T extends { readonly size: number }>(items: Iterable<T>): Iterable<T[]> {
  let job: T[] = [];
  let bytes = 0;
  for (const item of items) {
    job.push(item);
    bytes += item.size;
    if (bytes < JOB_BYTES && job.length < JOB_FILES) continue;
    yield job;
    job = [];
    bytes = 0;
  }
  if (job.length > 0) yield job;
}

/** Threads that pack or unpack files. */
export class PackWorkers {
  readonly #workers: { readonly worker: Worker; readonly ended: Promise<void> }[] = [];

  /**
   * Runs all jobs, side by side; `take` gets the result of each. Jobs are asked for when there is a worker for them. Ends early when the
   * signal aborts or `take` throws.
   */
  async run(
    jobs: Iterable<{ readonly job: PackJob; readonly take: (result: PackResult) => void }>,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const left = jobs[Symbol.iterator]();
    const work = async (): Promise<void> => {
      let ask: ((job: PackJob) => Promise<PackResult>) | undefined;
      const pending: { take: (result: PackResult) => void; result: Promise<PackResult> }[] = [];
      for (;;) {
        while (pending.length < JOBS_AHEAD) {
          signal?.throwIfAborted();
          const next = left.next();
          if (next.done === true) break;
          const { job, take } = next.value;
          ask ??= this.#start();
          const result = ask(job);
          result.catch(() => {}); // told when it is its turn
          pending.push({ take, result });
        }
        const first = pending.shift();
        if (first === undefined) return;
        first.take(await first.result);
      }
    };
    await Promise.all(Array.from({ length: Math.min(MAX_WORKERS, availableParallelism()) }, work));
  }

  /** A worker, as the function that gives it a job. It answers in the order of its jobs. */
  #start(): (job: PackJob) => Promise<PackResult> {
    const worker = new Worker(new URL('./pack-worker.js', import.meta.url), { resourceLimits: WORKER_MEMORY });
    const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
    this.#workers.push({ worker, ended });
    const asked: { resolve: (result: PackResult) => void; reject: (error: unknown) => void }[] = [];
    worker.on('message', (result: PackResult) => asked.shift()?.resolve(result));
    worker.on('error', (error) => {
      for (const { reject } of asked.splice(0)) reject(error);
    });
    return (job) =>
      new Promise((resolve, reject) => {
        asked.push({ resolve, reject });
        worker.postMessage(job);
      });
  }

  /**
   * Resolves when none of them touches a file any more. Each ends after the jobs that it has. `terminate()` is not used: Node 20 aborts the
   * whole process if it hits a thread that is loading a library.
   */
  async close(): Promise<void> {
    const workers = this.#workers.splice(0);
    for (const { worker } of workers) worker.postMessage(null);
    await Promise.all(workers.map(({ ended }) => ended));
  }
}
