/** How often recently written files are checked for failed write-back. */
const POLL_MS = 200;
/** The kernel writes back pages that are older than 30 s, and checks every 5 s (vm.dirty_expire_centisecs). A slow disk may take longer. */
const WATCH_MS = 120_000;

/**
 * Says when to check whether the disk has refused bytes that the kernel had accepted: every now and then, as long as there are recent writes.
 */
export class WritebackWatch {
  readonly #check: () => void;
  #lastWrite = 0;
  #timer: NodeJS.Timeout | null = null;

  constructor(check: () => void) {
    this.#check = check;
  }

  /** Bytes are about to be written. */
  wrote(): void {
    this.#lastWrite = performance.now();
    this.#timer ??= setInterval(() => this.#poll(), POLL_MS).unref();
  }

  #poll(): void {
    this.#check();
    if (performance.now() - this.#lastWrite >= WATCH_MS) this.stop();
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }
}
