/**
 * Immediate respawns are tokens: a crash now and then costs no delay, and neither does a test that kills the server all the time
 * (npm run torture: 100 times a minute). A server that dies on every request is slowed to one respawn a second.
 */
const TOKENS = 150;
const REFILL_MS = 1000;
/** A server that dies before it serves: wait, twice as long each time. */
const FIRST_BACK_OFF_MS = 100;
const MAX_BACK_OFF_MS = 5000;

/** How long to wait before a server process is started in the place of one that ended. */
export class RespawnPacing {
  #tokens = TOKENS;
  #refilledAt: number;
  /** Servers in a row that ended before they served. */
  #failures = 0;

  /** @param now milliseconds of a clock that only goes forward */
  constructor(now: number) {
    this.#refilledAt = now;
  }

  /** A server serves. */
  succeeded(): void {
    this.#failures = 0;
  }

  /** @returns milliseconds to wait */
  ended(served: boolean, now: number): number {
    if (!served) this.#failures++;
    // The first failure is free: something may have hit the server while it was starting.
    if (this.#failures > 1) return Math.min(MAX_BACK_OFF_MS, FIRST_BACK_OFF_MS * 2 ** (this.#failures - 2));
    const refill = Math.floor((now - this.#refilledAt) / REFILL_MS);
    this.#tokens = Math.min(TOKENS, this.#tokens + refill);
    this.#refilledAt += refill * REFILL_MS;
    if (this.#tokens === 0) return REFILL_MS;
    this.#tokens--;
    return 0;
  }
}
