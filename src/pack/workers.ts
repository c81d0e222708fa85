import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { PackJob, PackResult } from './pack-protocol.js';

/** Reading, hashing and writing keep a core each busy; more threads would wait for the same disk. */
const MAX_WORKERS = 4;
/** What a worker is given at once: enough that messages do not matter, little enough that all of them end together. */
const JOB_BYTES = 8 * 1024 * 1024;
const JOB_FILES = 512;
/** A worker keeps nothing from one file to the next; by default its heap would be allowed to grow before it is cleaned. */
const WORKER_MEMORY = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 64 };

/** Cuts a list of files in jobs, in order. */
export function jobsOf<T extends { readonly size: number }>(items: readonly T[]): T[][] {
  const jobs: T[][] = [];
  let job: T[] = [];
  let bytes = 0;
  for (const item of items) {
    job.push(item);
    bytes += item.size;
    if (bytes < JOB_BYTES && job.length < JOB_FILES) continue;
    jobs.push(job);
    job = [];
    bytes = 0;
  }
  if (job.length > 0) jobs.push(job);
  return jobs;
}

/** Threads that pack or unpack files. */
export class PackWorkers {
  readonly #workers: { readonly worker: Worker; readonly ended: Promise<void> }[] = [];

  /** Runs all jobs, side by side. Ends early when the signal aborts or `onResult` throws. */
  async run(
    jobs: readonly PackJob[],
    onResult: (job: number, result: PackResult) => void,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    let next = 0;
    const wanted = Math.min(jobs.length, MAX_WORKERS, availableParallelism());
    const work = async (): Promise<void> => {
      const worker = new Worker(new URL('./pack-worker.js', import.meta.url), { resourceLimits: WORKER_MEMORY });
      const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
      this.#workers.push({ worker, ended });
      for (let job = next++; job < jobs.length; job = next++) {
        signal?.throwIfAborted();
        onResult(job, await this.#ask(worker, jobs[job]!));
      }
    };
    await Promise.all(Array.from({ length: wanted }, work));
  }

  #ask(worker: Worker, job: PackJob): Promise<PackResult> {
    return new Promise((resolve, reject) => {
      const done = (result: PackResult): void => {
        worker.removeListener('error', reject);
        resolve(result);
      };
      worker.once('message', done);
      worker.once('error', reject);
      worker.postMessage(job);
    });
  }

  /**
   * Resolves when none of them touches a file any more. Each ends after its current job. `terminate()` is not used: Node 20 aborts the
   * whole process if it hits a thread that is loading a library.
   */
  async close(): Promise<void> {
    const workers = this.#workers.splice(0);
    for (const { worker } of workers) worker.postMessage(null);
    await Promise.all(workers.map(({ ended }) => ended));
  }
}
