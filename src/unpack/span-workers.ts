import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { ClipError } from '../bytes/index.js';
import type { Chunk, FromWorker, ToWorker, WorkerPlan } from './messages.js';

/** Beyond this the link or the disk is the limit. */
const MAX_WORKERS = 16;

interface Member {
  readonly worker: Worker;
  load: number;
}

/** Threads that check, inflate and write. */
export class SpanWorkers {
  readonly #members: Member[];
  readonly #pending = new Map<number, { resolve(): void; reject(error: Error): void; member: Member; bytes: number }>();
  #nextId = 1;

  #begun = false;

  /** They boot while the caller finds out what there is to do. */
  constructor(count = Math.min(MAX_WORKERS, availableParallelism())) {
    this.#members = Array.from({ length: count }, () => {
      const worker = new Worker(new URL('./unpack-worker.js', import.meta.url), { name: 'clip-unpack' });
      const member: Member = { worker, load: 0 };
      worker.on('message', (message: FromWorker) => this.#onMessage(message));
      worker.on('error', (cause) => this.#onDeath(member, cause));
      worker.on('exit', () => this.#onDeath(member, null));
      return member;
    });
  }

  get size(): number {
    return this.#members.length;
  }

  begin(plan: WorkerPlan): void {
    this.#begun = true;
    for (const { worker } of this.#members) worker.postMessage({ plan } satisfies ToWorker);
  }

  /** Resolves when all of a chunk is written. Chunks of one stream go to one worker, in the order of the calls. */
  run(chunk: Omit<Chunk, 'id'>): Promise<void> {
    const id = this.#nextId++;
    const member =
      chunk.kind === 'zstd-stream'
        ? this.#members[chunk.layer % this.#members.length]!
        : this.#members.reduce((best, other) => (other.load < best.load ? other : best));
    const bytes = chunk.spans.reduce((sum, { length }) => sum + length, 0);
    member.load += bytes;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, member, bytes });
      const message: ToWorker = { ...chunk, id };
      member.worker.postMessage(message, [chunk.bytes.buffer]);
    });
  }

  #onMessage({ id, error }: FromWorker): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    this.#pending.delete(id);
    pending.member.load -= pending.bytes;
    if (error === null) pending.resolve();
    else pending.reject(fault(error));
  }

  #onDeath(member: Member, cause: Error | null): void {
    for (const [id, pending] of this.#pending) {
      if (pending.member !== member) continue;
      this.#pending.delete(id);
      pending.reject(new ClipError('SYSTEM', `a thread that unpacks died: ${cause?.message ?? 'it ended'}`, { cause }));
    }
  }

  async close(): Promise<void> {
    await Promise.all(
      this.#members.map(({ worker }) => {
        if (!this.#begun) return worker.terminate();
        const end = new Promise((resolve) => worker.once('exit', resolve));
        worker.postMessage(null satisfies ToWorker);
        return end;
      }),
    );
  }
}

function fault({ code, message, errno }: NonNullable<FromWorker['error']>): ClipError {
  if (code === 'DIGEST_MISMATCH')
    return new ClipError(code, message, { hint: 'the layer was altered: push the image again' });
  if (code === 'BAD_FORMAT') return new ClipError(code, message, { hint: 'make the archive again: clipctl index' });
  const hints: Readonly<Record<string, string>> = {
    ENOSPC: 'free some space and run it again: it goes on where it was',
    EDQUOT: 'free some space and run it again: it goes on where it was',
    EOPNOTSUPP: 'the file system does not take the attributes that the image has: give a directory on another one',
    EPERM: 'attributes of the image need root: run it as root',
  };
  const hint = errno === undefined ? undefined : hints[errno];
  return new ClipError('SYSTEM', message, hint === undefined ? {} : { hint });
}
