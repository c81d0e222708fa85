import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { MAX_SPAN_OUTPUT } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { releaseHeap } from '../linux/index.js';
import { collectGarbage } from '../loader/index.js';
import { type Logger, Metrics, silentLogger } from '../metrics/index.js';
import {
  type FromInflate,
  Priority,
  type Task,
  type TaskMessage,
  type TaskResult,
  type ToInflate,
} from './inflate-tasks.js';
import { outputBytes, type Pending, TaskQueue } from './task-queue.js';

interface Member {
  worker: Worker;
  /** Its thread id; 0: it boots. */
  thread: number;
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
/** A task is a message each; V8's default lets new objects fill 48 MiB before it collects (docs/benchmarks.md, "Why these constants"). */
const YOUNG_MB = 3;
/** From a collection to the return of freed memory to the system: longer than all threads take for it. */
const RELEASE_MS = 500;
/**
 * A worker is given a second task while the first one runs if the first yields at most this much, as spans of the default 1 MiB do.
 * Otherwise it would idle for a message round trip after each. Behind a larger task a more urgent one would come too late
 * (docs/benchmarks.md, "Why these constants").
 */
const AHEAD_BYTES = 1.25 * 1024 * 1024;
/** Tasks that a worker has at the most: one that a reader waits for is done before a second one that runs ahead. */
const MAX_GIVEN = 3;

/**
 * Output that may be under way to memory at a time, because the disk does not take it or because a stream's span is whole before
 * it is written. One of the longest spans, or two of the longest checkpoint distance, 64 MiB.
 */
const MAX_MEMORY_OUTPUT = MAX_SPAN_OUTPUT;

/** A stream's decoder lives in one worker, and its tasks come there in order. Only the first that waits is in the queue. */
interface Stream {
  member: Member | null;
  /** Its worker died, and the decoder with it. */
  lost: boolean;
  readonly waiting: Pending[];
  queued: boolean;
}

function memoryOf(task: Task): number {
  if (task.type === 'inflate') return task.target.fd < 0 ? task.outLength : 0;
  return task.type === 'stream' && task.target !== null ? task.outLength : 0;
}

/** Threads that check, inflate and store spans. The caller's thread only moves buffers. */
export class InflatePool {
  readonly size: number;
  readonly #queue = new TaskQueue();
  readonly #members: Member[] = [];
  readonly #streams = new Map<number, Stream>();
  /** Output on its way to memory. */
  #memory = 0;
  readonly #log: Logger;
  readonly #crashes;
  /** Seconds, by thread. */
  readonly #cpu = new Map<number, number>();
  #nextId = 1;
  #closed = false;

  constructor(options: InflatePoolOptions = {}) {
    this.size = Math.max(1, options.workers ?? Math.min(MAX_WORKERS, availableParallelism()));
    this.#log = options.log ?? silentLogger();
    const metrics = options.metrics ?? new Metrics();
    this.#crashes = metrics.counter('inflateWorkerCrashes');
    metrics.gauge('inflateQueue', () => this.backlog);
    metrics.gauge('inflateCpuSeconds', () => this.#cpuSeconds());
  }

  /**
   * Starts the threads, which the first task does too. Not done by the constructor: a server that takes over from one that
   * was killed needs the cores for answering first.
   */
  warm(): void {
    while (this.#members.length < this.size && !this.#closed) this.#members.push(this.#spawn());
  }

  /** Starts the threads and has them load what they may need later. Resolves when they have, or have died. */
  async complete(): Promise<void> {
    this.warm();
    await Promise.all(
      this.#members.map(({ worker }) => {
        worker.postMessage('load' satisfies ToInflate);
        return new Promise<void>((resolve) => {
          worker.on('message', (message: FromInflate) => {
            if (message === 'loaded') resolve();
          });
          worker.once('exit', () => resolve());
        });
      }),
    );
  }

  /** Spans have been inflated, and readers have time: what was compiled for it is kept for the next run. */
  keepCode(): void {
    this.#members[0]?.worker.postMessage('keep' satisfies ToInflate);
  }

  /**
   * Buffers that are not used any more go back to the system: V8 does not count shared memory when it decides to collect, and each thread
   * that has seen a buffer holds it.
   */
  collect(): void {
    for (const { worker } of this.#members) worker.postMessage('collect' satisfies ToInflate);
    collectGarbage();
    // V8's own threads free what was found, a little later.
    setTimeout(releaseHeap, RELEASE_MS).unref();
  }

  /** Of all workers that there were; a worker that has died counts as it was seen last. */
  #cpuSeconds(): number {
    for (const { thread } of this.#members) {
      if (thread === 0) continue;
      try {
        // Documentation/scheduler/sched-stats.rst: nanoseconds on a CPU come first.
        this.#cpu.set(
          thread,
          Number(readFileSync(`/proc/self/task/${thread}/schedstat`, 'latin1').split(' ')[0]) / 1e9,
        );
      } catch {
        // it has just ended
      }
    }
    let sum = 0;
    for (const seconds of this.#cpu.values()) sum += seconds;
    return sum;
  }

  /** Output of an image's tasks that wait for a worker. */
  backlogBytes(owner: object): number {
    return this.#queue.bytesOf(owner);
  }

  /** Tasks that wait for a worker. */
  get backlog(): number {
    return this.#queue.length;
  }

  /**
   * Runs a task after all more urgent ones. Bad data is a result, not a rejection.
   * @param owner the image for which it is done: images take turns
   * @throws ClipError SYSTEM when the worker died over it, ABORTED when the pool was closed.
   */
  run(task: Task, priority: Priority, owner: object): Promise<TaskResult> {
    if (this.#closed) return Promise.reject(closedError());
    this.warm();
    return new Promise((resolve, reject) => {
      const pending: Pending = { id: this.#nextId++, task, owner, priority, resolve, reject };
      if (task.type === 'stream' || task.type === 'end-stream') {
        const stream = this.#stream(task.stream);
        stream.waiting.push(pending);
        this.#queueNext(stream);
      } else this.#queue.push(pending);
      this.#pump();
    });
  }

  /** A task that still waits, for a worker or behind a task of one, has become more urgent. */
  raise(task: Task, priority: Priority): void {
    if (this.#queue.raise(task, priority)) {
      this.#pump();
      return;
    }
    for (const { worker, running } of this.#members)
      for (const [id, pending] of running)
        if (pending.task === task) worker.postMessage({ raise: id, priority } satisfies ToInflate);
  }

  /** The threads end by themselves, for the reason that index/lane.ts gives. */
  async close(): Promise<void> {
    this.#closed = true;
    const error = closedError();
    for (const pending of this.#queue.clear()) pending.reject(error);
    for (const { waiting } of this.#streams.values()) for (const pending of waiting) pending.reject(error);
    this.#streams.clear();
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
    const member: Member = { worker: this.#start(), thread: 0, running: new Map(), load: 0 };
    this.#listen(member);
    return member;
  }

  #start(): Worker {
    const worker = new Worker(new URL('./inflate-worker.js', import.meta.url), {
      name: 'clip-inflate',
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB },
    });
    // Idle threads must not keep a process alive. A caller that waits for a result holds a socket or a pending read.
    worker.unref();
    return worker;
  }

  #listen(member: Member): void {
    const { worker } = member;
    let cause: unknown = null;
    member.thread = 0;
    worker.on('message', (message: FromInflate) => {
      if (message === 'loaded') return;
      if ('thread' in message) {
        member.thread = message.thread;
        return;
      }
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
      for (const stream of this.#streams.values()) stream.lost ||= stream.member === member;
      member.worker = this.#start();
      this.#listen(member);
      this.#pump();
    });
  }

  #finish(member: Member, pending: Pending): void {
    member.running.delete(pending.id);
    member.load -= outputBytes(pending.task);
    this.#memory -= memoryOf(pending.task);
    if (member.running.size === 0) member.worker.unref();
  }

  #assign(member: Member, pending: Pending): void {
    member.running.set(pending.id, pending);
    member.load += outputBytes(pending.task);
    this.#memory += memoryOf(pending.task);
    member.worker.ref();
    const message: TaskMessage = { id: pending.id, task: pending.task, priority: pending.priority };
    member.worker.postMessage(message);
  }

  #pump(): void {
    for (;;) {
      const pending = this.#queue.take((candidate) => this.#fits(candidate));
      if (pending === null) return;
      this.#begin(pending);
    }
  }

  #fits({ task, priority }: Pending): boolean {
    const stream = this.#streamOf(task);
    if (stream?.lost) return true; // to be rejected
    const free = stream?.member ? hasRoom(stream.member) : this.#free(priority) !== null;
    const memory = memoryOf(task);
    return free && (memory === 0 || this.#memory === 0 || this.#memory + memory <= MAX_MEMORY_OUTPUT);
  }

  #begin(pending: Pending): void {
    const stream = this.#streamOf(pending.task);
    if (stream === undefined) {
      this.#assign(this.#free(pending.priority)!, pending);
      return;
    }
    stream.queued = false;
    if (stream.lost) pending.reject(new ClipError('SYSTEM', 'the inflate worker of a stream died'));
    else {
      stream.member ??= this.#free(pending.priority)!;
      this.#assign(stream.member, pending);
    }
    const { task } = pending;
    if (task.type === 'end-stream') this.#streams.delete(task.stream);
    else this.#queueNext(stream);
  }

  /** The least loaded worker, if it may take one more. */
  #free(priority: Priority): Member | null {
    let best: Member | null = null;
    for (const member of this.#members) if (best === null || member.load < best.load) best = member;
    return best !== null && (hasRoom(best) || (priority === Priority.demand && best.running.size < MAX_GIVEN))
      ? best
      : null;
  }

  #stream(id: number): Stream {
    let stream = this.#streams.get(id);
    if (stream === undefined) {
      stream = { member: null, lost: false, waiting: [], queued: false };
      this.#streams.set(id, stream);
    }
    return stream;
  }

  #streamOf(task: Task): Stream | undefined {
    return task.type === 'stream' || task.type === 'end-stream' ? this.#streams.get(task.stream) : undefined;
  }

  #queueNext(stream: Stream): void {
    if (stream.queued) return;
    const next = stream.waiting.shift();
    if (next === undefined) return;
    stream.queued = true;
    this.#queue.push(next);
  }
}

function hasRoom(member: Member): boolean {
  return member.running.size === 0 || member.load < AHEAD_BYTES;
}

function closedError(): ClipError {
  return new ClipError('ABORTED', 'the inflate workers were stopped');
}
