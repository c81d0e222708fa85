const FIRST_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 30_000;

/** The next try of a disk that has refused a call: after a second, then twice as long each time. */
export class DiskBackoff {
  #pause = 0;
  #until = 0;

  /** It failed last time. */
  get active(): boolean {
    return this.#pause > 0;
  }

  /** It may be tried (again). */
  get due(): boolean {
    return performance.now() >= this.#until;
  }

  /** Of failures under way at the same time only the first counts towards the pause: true for that one. */
  failed(): boolean {
    if (!this.due) return false;
    this.#pause = Math.min(MAX_PAUSE_MS, Math.max(FIRST_PAUSE_MS, this.#pause * 2));
    this.#until = performance.now() + this.#pause;
    return true;
  }

  /** True when it had failed before. */
  succeeded(): boolean {
    const { active } = this;
    this.#pause = 0;
    return active;
  }
}
