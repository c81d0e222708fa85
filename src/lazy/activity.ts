/** What readers are waiting for right now: everything else steps back for it. */
export class Activity {
  /** Readers that wait for a span. */
  waiting = 0;
  #lastWait = Number.NEGATIVE_INFINITY;
  #receiving = 0;
  #idle: (() => void)[] = [];

  /** Milliseconds since a reader last had to wait; 0 while one does. */
  get quietFor(): number {
    return this.waiting > 0 ? 0 : performance.now() - this.#lastWait;
  }

  beginWait(): void {
    this.waiting++;
  }

  endWait(): void {
    this.waiting--;
    this.#lastWait = performance.now();
  }

  /** Bytes that a reader waits for are on the link. */
  beginReceiving(): void {
    this.#receiving++;
  }

  endReceiving(): void {
    this.#receiving--;
    if (this.#receiving === 0) for (const resume of this.#idle.splice(0)) resume();
  }

  /**
   * Null, or what to wait for before taking more of the link for something nobody waits for. Only while a reader's bytes are
   * arriving: during its round trip the link is free.
   */
  yieldLink(): Promise<void> | null {
    if (this.#receiving === 0) return null;
    return new Promise((resolve) => this.#idle.push(resolve));
  }
}
