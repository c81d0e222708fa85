/** Timers are no finer than 1 ms, and late: the link may catch up by this much of idle time, or it would be slower than told. */
const SLACK_MS = 10;

/** A link of a given rate that all connections share: chunks go out one after the other, each taking its time. */
export class Link {
  readonly #bytesPerMs: number;
  #freeAt = 0;

  constructor(bytesPerSecond: number) {
    this.#bytesPerMs = bytesPerSecond / 1000;
  }

  /** Resolves when the last of `bytes` has been sent. */
  async send(bytes: number): Promise<void> {
    const now = performance.now();
    this.#freeAt = Math.max(now - SLACK_MS, this.#freeAt) + bytes / this.#bytesPerMs;
    const wait = this.#freeAt - now;
    if (wait > 1) await new Promise((resolve) => setTimeout(resolve, wait));
  }
}
