import { KEEP_AFTER_MS, keepCode } from '../loader/index.js';

/** How far a run has come that has fetched, in the sense of `keepCode`: a first mount comes before, and may fetch nothing. */
const DEPTH = 1;

/** Keeps the code that a first fetch has had compiled: a while after it, or when an image is unmounted that it may have been for. */
export class FetchingCode {
  #timer: NodeJS.Timeout | null = null;
  #begun = false;

  /** @param alsoKeep lets other threads keep theirs */
  constructor(readonly alsoKeep: () => void) {}

  /** A span was fetched and inflated. */
  used(): void {
    if (this.#begun) return;
    this.#begun = true;
    this.#timer = setTimeout(() => this.#keep(), KEEP_AFTER_MS).unref();
  }

  /** Readers of an image have gone. */
  unmounted(): void {
    if (this.#timer !== null) setImmediate(() => this.#keep());
  }

  #keep(): void {
    if (this.#timer === null) return;
    clearTimeout(this.#timer);
    this.#timer = null;
    keepCode(DEPTH);
    this.alsoKeep();
  }
}
