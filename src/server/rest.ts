const TICK_MS = 1000;
/**
 * Ticks without a request: longer than a program's work between two stages of its start. V8 shrinks the room for new objects only where few
 * were made in the last five seconds.
 */
const QUIET_TICKS = 5;
/** Requests that leave little behind. */
const REST_AFTER = 1000;

/** Lets this process give back memory when its readers pause: after the first pause that there is, then after every thousand requests. */
export class Rest {
  readonly #timer: NodeJS.Timeout;
  #seen = 0;
  #due = 1;
  #quiet = 0;

  /** @param requests  how many there were */
  constructor(
    readonly requests: () => number,
    readonly collect: () => void,
    tickMs = TICK_MS,
  ) {
    this.#timer = setInterval(() => this.#tick(), tickMs).unref();
  }

  #tick(): void {
    const now = this.requests();
    this.#quiet = now === this.#seen ? this.#quiet + 1 : 0;
    this.#seen = now;
    if (this.#quiet < QUIET_TICKS || now < this.#due) return;
    this.#due = now + REST_AFTER;
    this.collect();
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
