/** Background bytes give way this long to bytes that a reader waits for, which may come very slowly or never. */
const MAX_YIELD_MS = 50;
/** A reader that has waited this long waits for a registry in trouble. Other images' background work does not wait with it. */
const STUCK_MS = 5_000;

/** What readers are waiting for right now, for which everything else steps back. */
export class Activity {
  #waiting = 0;
  #lastChange = Number.NEGATIVE_INFINITY;
  #receiving = 0;
  readonly #yielding = new Set<() => void>();

  /** Milliseconds since a reader last had to wait; 0 while one does. */
  get quietFor(): number {
    const since = performance.now() - this.#lastChange;
    return this.#waiting > 0 && since < STUCK_MS ? 0 : since;
  }

  beginWait(): void {
    this.#waiting++;
    this.#lastChange = performance.now();
  }

  endWait(): void {
    this.#waiting--;
    this.#lastChange = performance.now();
  }

  /** Bytes that a reader waits for are on the link. */
  beginReceiving(): void {
    this.#receiving++;
  }

  endReceiving(): void {
    this.#receiving--;
    if (this.#receiving === 0) for (const resume of this.#yielding) resume();
  }

  /**
   * Null, or a promise to wait for before background bytes take more of the link. Only while a reader's bytes are arriving:
   * during its round trip the link is free.
   */
  yieldLink(): Promise<void> | null {
    if (this.#receiving === 0) return null;
    return new Promise((resolve) => {
      const resume = (): void => {
        clearTimeout(timer);
        this.#yielding.delete(resume);
        resolve();
      };
      const timer = setTimeout(resume, MAX_YIELD_MS);
      this.#yielding.add(resume);
    });
  }
}
