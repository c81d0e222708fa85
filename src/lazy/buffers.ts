/** Smallest size class; spans of 2 MiB are some 700 KiB compressed. */
const MIN_CLASS = 256 * 1024;
/** A larger buffer is not kept: it was for one very long span. */
const MAX_CLASS = 8 * 1024 * 1024;
/** Kept for reuse in total: page faults of fresh buffers cost more than hashing (docs/benchmarks.md, "Why these constants"). */
const MAX_KEPT = 64 * 1024 * 1024;

/** A pause after which what is kept goes: the next reads may come in hours. Longer than a program's work between two stages of its start. */
const IDLE_MS = 2000;

/** Shared-memory buffers for compressed bytes on their way to the inflate workers, used again and again. */
export class BufferPool {
  readonly #free = new Map<number, SharedArrayBuffer[]>();
  #kept = 0;
  #releasedAt = 0;
  #timer: NodeJS.Timeout | null = null;

  /** @param onIdle  told when what was kept has been let go */
  constructor(readonly onIdle: () => void = () => {}) {}

  /** At least `length` bytes, content arbitrary. */
  acquire(length: number): SharedArrayBuffer {
    let size = MIN_CLASS;
    while (size < length) size *= 2;
    const buffer = this.#free.get(size)?.pop();
    if (buffer === undefined) return new SharedArrayBuffer(size);
    this.#kept -= size;
    return buffer;
  }

  /** The buffer may not be used any more. */
  release(buffer: SharedArrayBuffer): void {
    const size = buffer.byteLength;
    if (size > MAX_CLASS || this.#kept + size > MAX_KEPT) return;
    const list = this.#free.get(size) ?? [];
    this.#free.set(size, list);
    list.push(buffer);
    this.#kept += size;
    this.#releasedAt = performance.now();
    this.#timer ??= setTimeout(() => this.#look(), IDLE_MS).unref();
  }

  #look(): void {
    const left = IDLE_MS - (performance.now() - this.#releasedAt);
    this.#timer = left > 0 ? setTimeout(() => this.#look(), left).unref() : null;
    if (left > 0) return;
    this.clear();
    this.onIdle();
  }

  /** Frees what is kept. */
  clear(): void {
    this.#free.clear();
    this.#kept = 0;
  }
}
