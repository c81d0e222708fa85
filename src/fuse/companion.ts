import { lastCpuOf, ThreadPins, threadId } from '../linux/index.js';

/** The kernel's calls that are used here. */
export interface CompanionKernel {
  threadId(): number;
  lastCpuOf(thread: number): number;
  pin(thread: number, cpu: number): boolean;
  release(thread: number): void;
}

function linux(): CompanionKernel {
  const pins = new ThreadPins();
  return {
    threadId,
    lastCpuOf,
    pin: (thread, cpu) => pins.pin(thread, cpu),
    release: (thread) => pins.release(thread),
  };
}

/** Indexes of the words all workers share, then for each worker its thread id and where it is. CPUs are counted from 1 here; 0 is "none". */
const CLIENT = 0;
const STREAK = 1;
const CPU = 2;
const DUE = 3;
const PATIENCE = 4;
const WORKERS = 5;
/** Requests in a row from one thread before it counts as the only one that asks. */
const ALONE = 4;
/** At most this many requests until the thread's CPU is looked up again (docs/benchmarks.md, "Why these constants"). */
const MAX_PATIENCE = 32;

/**
 * Keeps the waiting worker on the CPU of the thread that sends requests, as long as only one thread does. The kernel wakes a sleeping
 * thread on an idle CPU if there is one. That CPU has halted, and on a virtual machine waking it takes longer than the answer. The
 * requesting thread's own CPU is awake, and idle while the thread waits (docs/benchmarks.md, "Why these constants").
 */
export class Companion {
  static words(workers: number): number {
    return WORKERS + 2 * workers;
  }

  constructor(
    private readonly words: Int32Array,
    /** 1-based, as all workers here. */
    private readonly self: number,
    private readonly kernel: CompanionKernel = linux(),
  ) {
    words[WORKERS + 2 * (self - 1)] = kernel.threadId();
  }

  /** A request of `thread` was taken; 0: of none, or of another process id namespace. */
  taken(thread: number): void {
    const { words } = this;
    if (thread !== 0 && thread === words[CLIENT]) {
      if (words[STREAK]! < ALONE) words[STREAK]!++; // a larger count has no effect
    } else {
      words[CLIENT] = thread;
      words[STREAK] = 0;
      words[CPU] = 0;
      words[DUE] = 0;
      words[PATIENCE] = 1;
    }
  }

  /**
   * The request was answered, and `leader` waits, or will wait, for the next one. Looks up the thread's CPU, more often while the
   * thread moves. A thread that waited for the disk has mostly moved: it is woken on an idle CPU.
   */
  answered(leader: number): void {
    const { words } = this;
    if (words[STREAK]! < ALONE || leader === 0) return;
    if (--words[DUE]! > 0 && leader === this.self) return;
    const cpu = this.kernel.lastCpuOf(words[CLIENT]!) + 1;
    words[PATIENCE] = cpu === words[CPU] ? Math.min(words[PATIENCE]! * 2, MAX_PATIENCE) : 1;
    words[DUE] = words[PATIENCE]!;
    words[CPU] = cpu;
    // Moving a sleeping worker costs very little.
    this.#move(leader, cpu);
  }

  /** Before waiting for the next request. @returns whether this worker is on the CPU of the requesting thread */
  join(): boolean {
    this.#move(this.self, this.words[CPU]!);
    return this.words[WORKERS + 2 * this.self - 1] !== 0;
  }

  /** Before waiting for anything else. Always, because another worker may have moved this one just now, as the leader. */
  leave(): void {
    this.words[WORKERS + 2 * this.self - 1] = 0;
    this.kernel.release(this.words[WORKERS + 2 * (this.self - 1)]!);
  }

  /** Before a slow answer: the CPU on which the thread will go on is not known before it has the answer. */
  delay(): void {
    this.words[CPU] = 0;
    this.leave();
  }

  #move(worker: number, cpu: number): void {
    const { words } = this;
    const thread = WORKERS + 2 * (worker - 1);
    if (words[thread + 1] === cpu) return;
    if (cpu === 0) this.kernel.release(words[thread]!);
    else if (!this.kernel.pin(words[thread]!, cpu - 1)) return;
    words[thread + 1] = cpu;
  }
}
