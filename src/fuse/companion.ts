import { lastCpuOf, ThreadAffinity } from '../linux/index.js';

/** Indexes of the words all workers share. CPU holds one more than the number: 0 is "none". */
const THREAD = 0;
const STREAK = 1;
const CPU = 2;
export const COMPANION_WORDS = 3;
/** Requests in a row from one thread before it counts as the only one. */
const ALONE = 16;
/** Requests after which it is looked up again: the scheduler may have moved it. */
const LOOK_AGAIN = 64;

/**
 * Lets the worker that waits run on the CPU of the thread it answers, as long as that is the only one that asks. The kernel
 * wakes a sleeper on an idle CPU if there is one; that one has halted, and on a virtual machine it takes 20 to 30 µs to get it
 * going, there and back. While a thread waits for its answer its own CPU has nothing better to do than to give it: 6 µs.
 */
export class Companion {
  readonly #affinity = new ThreadAffinity();

  constructor(private readonly words: Int32Array) {}

  /** A request of `thread` (0: in another process id namespace) was taken. `queued`: others wait, too. */
  taken(thread: number, queued: boolean): void {
    const { words } = this;
    if (queued || thread === 0 || thread !== words[THREAD]) {
      words[THREAD] = thread;
      words[STREAK] = 0;
      words[CPU] = 0;
      return;
    }
    const streak = ++words[STREAK]!;
    if (streak % LOOK_AGAIN === ALONE) words[CPU] = lastCpuOf(thread) + 1;
  }

  /** Before waiting for the next request. @returns whether the worker is where that is likely to come from */
  join(): boolean {
    const cpu = this.words[CPU]! - 1;
    if (cpu < 0) this.#affinity.release();
    else this.#affinity.pin(cpu);
    return this.#affinity.pinned >= 0;
  }

  /** Before waiting for anything else. */
  leave(): void {
    this.#affinity.release();
  }
}
