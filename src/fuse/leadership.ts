/** Indexes of the words all workers share. */
const LEADER = 0;
const TICKET = 1;
const PARKED = 2;
export const LEADERSHIP_WORDS = 3;

/**
 * Decides which worker waits for requests. If all waited, each request would wake another one. A worker that polls for a moment before
 * it sleeps, which helps most because a wake-up costs more than an answer, would find that the kernel also wakes its sleeping
 * neighbour. So one worker, the leader, waits. The others are parked until the leader finds a second request behind the first, or
 * has to wait for the disk and gives the lead away.
 */
export class Leadership {
  constructor(
    private readonly words: Int32Array,
    /** 1-based. */
    private readonly self: number,
  ) {}

  /** Takes the lead if it is free. */
  lead(): boolean {
    const leader = Atomics.compareExchange(this.words, LEADER, 0, this.self);
    return leader === 0 || leader === this.self;
  }

  /** The worker that has the lead; 0: none at the moment. */
  get leader(): number {
    return Atomics.load(this.words, LEADER);
  }

  /** Gives the lead away, if this worker has it, before work that may take long. */
  abdicate(): void {
    if (Atomics.load(this.words, LEADER) !== this.self) return;
    Atomics.store(this.words, LEADER, 0);
    this.callHelper();
  }

  /** Wakes one parked worker, if there is one. */
  callHelper(): void {
    if (Atomics.load(this.words, PARKED) === 0) return;
    Atomics.add(this.words, TICKET, 1);
    Atomics.notify(this.words, TICKET, 1);
  }

  /** Take it before looking for work: a call that comes after the look then keeps {@link park} from sleeping. */
  ticket(): number {
    return Atomics.load(this.words, TICKET);
  }

  /** Sleeps until called, unless there was a call since `ticket` or the lead is free. @returns false: nobody has called in that time */
  park(ticket: number, milliseconds = Number.POSITIVE_INFINITY): boolean {
    Atomics.add(this.words, PARKED, 1);
    // The order matters: a worker that gives the lead away frees it first and calls afterwards.
    const free = Atomics.load(this.words, LEADER) === 0;
    const called = free || Atomics.wait(this.words, TICKET, ticket, milliseconds) !== 'timed-out';
    Atomics.sub(this.words, PARKED, 1);
    return called;
  }

  /** Wakes every parked worker: there are messages, or it is time to leave. */
  static callAll(words: Int32Array): void {
    Atomics.add(words, TICKET, 1);
    Atomics.notify(words, TICKET);
  }
}
