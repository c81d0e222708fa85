/** How often progress is looked at. */
const LOOKS = 4;

/**
 * Finds a connection over which too little comes. A peer that sends a byte now and then keeps a plain idle timeout from ever
 * ending, so a number of bytes is asked for in each period.
 */
export class StallTimer {
  readonly #periodMs: number;
  readonly #minBytes: number;
  readonly #onStall: () => void;
  #timer: NodeJS.Timeout | null = null;
  #bytes = 0;
  #since = 0;
  #paused = false;

  /** @param minBytes fewer than this in `periodMs` is a stall */
  constructor(periodMs: number, minBytes: number, onStall: () => void) {
    this.#periodMs = periodMs;
    this.#minBytes = minBytes;
    this.#onStall = onStall;
  }

  start(): void {
    this.#bytes = 0;
    this.#since = performance.now();
    this.#timer ??= setInterval(() => this.#look(), Math.max(1, this.#periodMs / LOOKS));
  }

  received(bytes: number): void {
    this.#bytes += bytes;
  }

  /** While nothing is read, nothing can come: the time does not count. */
  set paused(paused: boolean) {
    this.#paused = paused;
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #look(): void {
    const now = performance.now();
    if (this.#paused || this.#bytes >= this.#minBytes) {
      this.#bytes = 0;
      this.#since = now;
    } else if (now - this.#since >= this.#periodMs) {
      this.stop();
      this.#onStall();
    }
  }
}
