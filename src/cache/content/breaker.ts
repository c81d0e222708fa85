/** After this many failures in a row the cache is not asked for a while. */
const FAILURES_TO_OPEN = 3;
const FIRST_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 30_000;

/**
 * A circuit breaker: open after three failures in a row, for a second, then twice as long each time; after a pause one call
 * goes ahead as a probe (half open), and the others wait for its outcome.
 */
export class Breaker {
  #failures = 0;
  #pause = 0;
  #closedUntil = 0;
  #probing = false;

  /** @param onChange told when it opens, with the cause, and when it closes again */
  constructor(readonly onChange: (open: boolean, cause: string) => void) {}

  /** No call has succeeded since it opened, even if a probe may be made now. */
  get tripped(): boolean {
    return this.#pause > 0;
  }

  /** Calls are not to be made. */
  get open(): boolean {
    return this.#pause > 0 && performance.now() < this.#closedUntil;
  }

  /** Whether this call may be made. If so, the caller must report its end. */
  admit(): boolean {
    if (this.#pause === 0) return true;
    if (this.open || this.#probing) return false;
    this.#probing = true;
    return true;
  }

  succeeded(): void {
    if (this.#pause > 0) this.onChange(false, '');
    this.#failures = 0;
    this.#pause = 0;
    this.#probing = false;
  }

  failed(cause: string): void {
    this.#failures++;
    const probe = this.#probing;
    this.#probing = false;
    if (!probe && this.#failures < FAILURES_TO_OPEN) return;
    if (this.open) return;
    if (this.#pause === 0) this.onChange(true, cause);
    this.#pause = Math.min(MAX_PAUSE_MS, Math.max(FIRST_PAUSE_MS, this.#pause * 2));
    this.#closedUntil = performance.now() + this.#pause;
  }
}
