import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { ClipError } from '../bytes/index.js';
import { type Logger, Metrics, silentLogger } from '../metrics/index.js';
import {
  PRIORITIES,
  type Priority,
  type ResultMessage,
  type Task,
  type TaskMessage,
  type TaskResult,
  type ToInflate,
} from './inflate-tasks.js';

interface Pending {
  readonly id: number;
  readonly task: Task;
  readonly resolve: (result: TaskResult) => void;
  readonly reject: (error: unknown) => void;
}

interface Member {
  worker: Worker;
  readonly running: Map<number, Pending>;
  /** Output bytes of what it was given and has not answered. */
  load: number;
}

export interface InflatePoolOptions {
  /** Default: one per core, at most 16: beyond that the link is the limit. */
  readonly workers?: number;
  readonly log?: Logger;
  readonly metrics?: Metrics;
}

const MAX_WORKERS = 16;
/**
 * A worker is given a second task while the first one runs if the first yields at most this much, as spans of the default 1 MiB do.
 * Otherwise it would idle for a message round trip after each. Behind a larger task a more urgent one would come too late
 * (docs/benchmarks.md, "Why these constants").
 */
const AHEAD_BYTES = 1.25 * 1024 * 1024;

function outputBytes(task: Task): number {
  return task.type === 'end-stream' ? 0 : task.outLength;
}

/** Threads that check, inflate and store spans. The caller's thread only moves buffers. */
export class InflatePool {
  readonly size: number;
  readonly #queues: Pending[][] = PRIORITIES.map(() => []);
  readonly #members: Member[] = [];
  readonly #streams = new Map<number, Member>();
  readonly #log: Logger;
  readonly #crashes;
  #nextId = 1;
  #closed = false;

  constructor(options: InflatePoolOptions = {}) {
    this.size = Math.max(1, options.workers ?? Math.min(MAX_WORKERS, availableParallelism()));
    this.#log = options.log ?? silentLogger();
    const metrics = options.metrics ?? new Metrics();
    this.#crashes = metrics.counter('inflateWorkerCrashes', 'Inflate workers that died and were replaced');
    metrics.gauge('inflateQueue', 'Spans waiting for an inflate worker', () => this.backlog);
  }

  /**
   * Starts the threads, which the first task does too. Not done by the constructor: a server that takes over from one that
   * was killed needs the cores for answering first.
   */
  warm(): void {
    while (this.#members.length < this.size && !this.#closed) this.#members.push(this.#spawn());
  }

  /** What the tasks that wait for a worker will make. */
  get backlogBytes(): number {
    return this.#queues.reduce((sum, queue) => queue.reduce((bytes, { task }) => bytes + outputBytes(task), sum), 0);
  }

  /** Tasks that wait for a worker. */
  get backlog(): number {
    return this.#queues.reduce((sum, queue) => sum + queue.length, 0);
  }

  /**
   * Runs a task after all more urgent ones. Bad data is a result, not a rejection.
   * @throws ClipError SYSTEM when the worker died over it, ABORTED when the pool was closed.
   */
  run(task: Task, priority: Priority): Promise<TaskResult> {
    if (this.#closed) return Promise.reject(closedError());
    this.warm();
    return new Promise((resolve, reject) => {
      const pending: Pending = { id: this.#nextId++, task, resolve, reject };
      if (task.type === 'stream' || task.type === 'end-stream') this.#assign(this.#streamMember(task), pending);
      else {
        this.#queues[priority]!.push(pending);
        this.#pump();
      }
    });
  }

  /** A task that still waits for a worker has become more urgent. */
  raise(task: Task, priority: Priority): void {
    for (const queue of this.#queues.slice(priority + 1)) {
      const at = queue.findIndex((pending) => pending.task === task);
      if (at >= 0) this.#queues[priority]!.push(...queue.splice(at, 1));
    }
  }

  /** The threads end by themselves, for the reason that index/lane.ts gives. */
  async close(): Promise<void> {
    this.#closed = true;
    const error = closedError();
    for (const queue of this.#queues) for (const pending of queue.splice(0)) pending.reject(error);
    const members = this.#members.splice(0);
    for (const member of members) {
      for (const pending of member.running.values()) pending.reject(error);
      member.running.clear();
    }
    const ends = members.map(({ worker }) => new Promise((resolve) => worker.once('exit', resolve)));
    for (const { worker } of members) {
      worker.ref();
      worker.postMessage(null satisfies ToInflate);
    }
    await Promise.all(ends);
  }

  #spawn(): Member {
    const member: Member = { worker: this.#start(), running: new Map(), load: 0 };
    this.#listen(member);
    return member;
  }

  #start(): Worker {
    const worker = new Worker(new URL('./inflate-worker.js', import.meta.url), { name: 'clip-inflate' });
    // Idle threads must not keep a process alive; whoever waits for a result holds a socket or a pending read.
    worker.unref();
    return worker;
  }

  #listen(member: Member): void {
    const { worker } = member;
    let cause: unknown = null;
    worker.on('message', (message: ResultMessage) => {
      const pending = member.running.get(message.id);
      if (pending === undefined) return;
      this.#finish(member, pending);
      pending.resolve(message.result);
      this.#pump();
    });
    worker.on('error', (error) => {
      cause = error;
    });
    worker.on('exit', (code) => {
      if (this.#closed) return;
      this.#crashes.add();
      this.#log.error({ code, error: String(cause) }, 'an inflate worker died: starting another');
      const error = new ClipError('SYSTEM', `an inflate worker died: ${cause ?? `exit code ${code}`}`, { cause });
      for (const pending of [...member.running.values()]) {
        this.#finish(member, pending);
        pending.reject(error);
      }
      for (const [stream, owner] of this.#streams) if (owner === member) this.#streams.delete(stream);
      member.worker = this.#start();
      this.#listen(member);
      this.#pump();
    });
  }

  #finish(member: Member, pending: Pending): void {
    member.running.delete(pending.id);
    member.load -= outputBytes(pending.task);
    if (member.running.size === 0) member.worker.unref();
  }

  #assign(member: Member, pending: Pending): void {
    member.running.set(pending.id, pending);
    member.load += outputBytes(pending.task);
    member.worker.ref();
    const message: TaskMessage = { id: pending.id, task: pending.task };
    member.worker.postMessage(message);
  }

  #pump(): void {
    for (const queue of this.#queues) {
      while (queue.length > 0) {
        const member = this.#free();
        if (member === null) return;
        this.#assign(member, queue.shift()!);
      }
    }
  }

  /** The least loaded worker, if it may take one more. */
  #free(): Member | null {
    let best: Member | null = null;
    for (const member of this.#members) if (best === null || member.load < best.load) best = member;
    return best !== null && (best.running.size === 0 || best.load < AHEAD_BYTES) ? best : null;
  }

  /** A stream's decoder lives in one worker from its first span to its end. */
  #streamMember(task: { type: string; stream: number }): Member {
    let member = this.#streams.get(task.stream);
    if (member === undefined) {
      const used = [...this.#streams.values()];
      const count = (m: Member): number => used.reduce((n, other) => n + (other === m ? 1 : 0), 0);
      member = this.#members.reduce((a, b) => (count(b) < count(a) ? b : a));
      this.#streams.set(task.stream, member);
    }
    if (task.type === 'end-stream') this.#streams.delete(task.stream);
    return member;
  }
}

function closedError(): ClipError {
  return new ClipError('ABORTED', 'the inflate workers were stopped');
}
