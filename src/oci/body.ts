/** Beyond this much unread data the connection is paused. Enough that the reader never waits on a 10 Gbit/s link. */
const HIGH_WATER = 2 * 1024 * 1024;

/** What the reader of a body may do to the connection that it comes from. */
export interface Flow {
  pause(): void;
  resume(): void;
  abort(reason: Error): void;
}

/** A response's body: an async iterable, to be read once, of the chunks as they came. Chunks belong to the reader. */
export class Body implements AsyncIterable<Uint8Array> {
  readonly #flow: Flow;
  #queue: Uint8Array[] = [];
  #queued = 0;
  #paused = false;
  #ended = false;
  #error: Error | null = null;
  #wake: (() => void) | null = null;
  #cancelled = false;

  constructor(flow: Flow) {
    this.#flow = flow;
  }

  /** Producer side. */
  push(chunk: Uint8Array): void {
    if (this.#cancelled) return;
    this.#queue.push(chunk);
    this.#queued += chunk.length;
    if (this.#queued > HIGH_WATER && !this.#paused) {
      this.#paused = true;
      this.#flow.pause();
    }
    this.#notify();
  }

  /** Producer side: no more will come. With an error, the body is incomplete. */
  end(error: Error | null): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#notify();
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  #relieve(): void {
    if (!this.#paused || this.#queued > HIGH_WATER / 2) return;
    this.#paused = false;
    this.#flow.resume();
  }

  /** Gives up the rest: the connection is closed unless everything has come already. */
  cancel(): void {
    this.#queue = [];
    this.#queued = 0;
    this.#cancelled = true;
    if (!this.#ended) this.#flow.abort(new Error('the rest of the response is not wanted'));
  }

  /** The whole body. @returns null, with the rest cancelled, when it is longer than `limit` bytes. */
  async collect(limit: number, onBytes?: (length: number) => void): Promise<Uint8Array | null> {
    const chunks: Uint8Array[] = [];
    let length = 0;
    for await (const chunk of this) {
      length += chunk.length;
      if (length > limit) return null;
      chunks.push(chunk);
      onBytes?.(length);
    }
    return Buffer.concat(chunks);
  }

  /** The next chunk if it is here. @throws the connection's error once all that came before it has been taken */
  shift(): Uint8Array | undefined {
    const chunk = this.#queue.shift();
    if (chunk !== undefined) {
      this.#queued -= chunk.length;
      this.#relieve();
    } else if (this.#error !== null) throw this.#error;
    return chunk;
  }

  /** True when {@link shift} has nothing more to give, ever. */
  get ended(): boolean {
    return this.#ended && this.#queue.length === 0 && this.#error === null;
  }

  /** Resolves when there is a chunk to shift, or the end, or an error. */
  async wait(): Promise<void> {
    if (this.#ended || this.#queue.length > 0) return;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, void> {
    try {
      while (!this.ended) {
        const chunk = this.shift();
        if (chunk === undefined) await this.wait();
        else yield chunk;
      }
    } finally {
      this.cancel();
    }
  }
}
