import { readSync, write } from 'node:fs';
import { promisify } from 'node:util';
import type { SpanIndex } from '../bytes/index.js';
import type { CachedLayer, SpanCache } from '../cache/index.js';
import { publish } from '../spans/index.js';
import type { MemoryLru } from './memory-lru.js';

/** A span that the disk could not read back is kept in memory for this long; then the disk gets another chance. */
const UNREADABLE_MS = 30_000;

const writeAsync = promisify(write);

/** The I/O thread's own reads and writes of a layer's cache file. */
export class SpanFile {
  readonly #cached: CachedLayer;
  readonly #cache: SpanCache;
  readonly #memory: MemoryLru;
  /** Span → until when it avoids the disk. */
  readonly #unreadable = new Map<number, number>();
  readonly #promoting = new Set<number>();

  constructor(cached: CachedLayer, cache: SpanCache, memory: MemoryLru) {
    this.#cached = cached;
    this.#cache = cache;
    this.#memory = memory;
  }

  avoidsDisk(span: SpanIndex): boolean {
    const until = this.#unreadable.get(span);
    if (until === undefined) return false;
    if (performance.now() < until) return true;
    this.#unreadable.delete(span);
    return false;
  }

  /**
   * Copies the layer's bytes from `offset` on out of the spans from `first` on that are not `copied` yet, which the caller
   * holds. False when the file could not give back what it had; those spans are to be fetched again.
   */
  copyOut(out: Uint8Array, offset: number, first: number, copied: readonly boolean[]): boolean {
    const { offsets } = this.#cached.shared;
    const end = offset + out.length;
    for (let i = 0; i < copied.length; ) {
      if (copied[i]) {
        i++;
        continue;
      }
      let j = i + 1;
      while (j < copied.length && !copied[j]) j++;
      const start = Math.max(offset, offsets[first + i]!);
      const stop = Math.min(end, offsets[first + j]!);
      if (!this.#readBack(out, start - offset, stop - start, start, first + i, first + j)) return false;
      i = j;
    }
    return true;
  }

  #readBack(out: Uint8Array, at: number, length: number, position: number, first: number, end: number): boolean {
    const { fd } = this.#cached.shared;
    let code = 'EOF';
    try {
      let done = 0;
      while (done < length) {
        const n = readSync(fd, out, at + done, length - done, position + done);
        if (n === 0) break;
        done += n;
      }
      let whole = done === length;
      // Held spans are not evicted; only a failed read back hides one.
      for (let span = first; span < end; span++) whole &&= this.#cached.present(span);
      if (whole) return true;
    } catch (error) {
      code = (error as NodeJS.ErrnoException).code ?? String(error);
    }
    for (let span = first; span < end; span++) {
      this.#unreadable.set(span, performance.now() + UNREADABLE_MS);
      this.#cache.readFailed(this.#cached, span, code);
    }
    return false;
  }

  /** Moves a span from memory to the disk, if that takes writes again: FUSE workers find spans only there. */
  async promote(span: SpanIndex, bytes: Uint8Array): Promise<void> {
    const { shared } = this.#cached;
    if (this.#promoting.has(span) || !this.#cache.mayTake(this.#cached) || this.avoidsDisk(span)) return;
    if (!this.#cache.reserve(this.#cached, span, 'anything')) return;
    this.#promoting.add(span);
    this.#cached.hold(span);
    try {
      const position = shared.offsets[span]!;
      for (let done = 0; done < bytes.length; ) {
        done += (await writeAsync(shared.fd, bytes, done, bytes.length - done, position + done)).bytesWritten;
      }
      publish({ fd: shared.fd, position, span, generations: shared.generations });
      this.#memory.delete(shared.id, span);
      this.#cache.writeSucceeded();
    } catch (error) {
      this.#cache.writeFailed(this.#cached, span, (error as NodeJS.ErrnoException).code ?? String(error));
    } finally {
      this.#promoting.delete(span);
      this.#cached.unhold(span);
    }
  }
}
