import type { SpanIndex } from '../bytes/index.js';
import { type CachedLayer, Occupied, type SpanCache } from '../cache/index.js';
import type { InflatePool } from './inflate-pool.js';
import { verifySpan } from './verify-cache.js';

/** A span that is read from the disk is checked again when its last check is this old. */
const MAX_AGE_MS = 10 * 60_000;
const TICK_MS = 1_000;
/**
 * Bytes checked in a second at most. The CRC-32 of 4 MiB takes some 2 ms of one core, 0.2 %; a cache of 20 GB of which all is
 * read again and again is through in 80 minutes.
 */
const BYTES_PER_TICK = 4 * 1024 * 1024;
/** Spans looked at in a second, so that a large cache costs the I/O thread no pause. */
const SPANS_PER_TICK = 4096;

interface Ages {
  /** performance.now() of each span's last check; 0: not noticed yet. */
  readonly checked: Float64Array;
  /** `lastUse` at that time. A span that was not read since is not checked. */
  readonly use: Int32Array;
}

/**
 * Checks spans again that readers get from the disk, because a disk may change its mind: FUSE workers read spans without
 * checking them. Bytes that are wrong may have been read before they are found, but not for long.
 */
export class Recheck {
  readonly #ages = new WeakMap<CachedLayer, Ages>();
  readonly #timer: NodeJS.Timeout;
  #layer = 0;
  #span = 0;
  #running = false;

  constructor(
    readonly cache: SpanCache,
    readonly pool: InflatePool,
    readonly onDamaged: (layer: CachedLayer, span: SpanIndex) => void,
    readonly maxAgeMs = MAX_AGE_MS,
    tickMs = TICK_MS,
  ) {
    this.#timer = setInterval(() => void this.#tick(), tickMs).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  async #tick(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    try {
      let bytes = 0;
      for (let looks = 0; looks < SPANS_PER_TICK && bytes < BYTES_PER_TICK; looks++) {
        const next = this.#next();
        if (next === null) return;
        const { layer, span } = next;
        if (!this.#due(layer, span)) continue;
        bytes += layer.length(span);
        if ((await verifySpan(this.cache, this.pool, layer, layer.table, span)) === 'damaged')
          this.onDamaged(layer, span);
      }
    } catch {
      // The pool was closed, or a worker died: counted there.
    } finally {
      this.#running = false;
    }
  }

  #next(): { layer: CachedLayer; span: SpanIndex } | null {
    const layers = this.cache.mounted();
    for (let tries = 0; tries <= layers.length; tries++) {
      const layer = layers[this.#layer];
      if (layer !== undefined && this.#span < layer.count) return { layer, span: this.#span++ };
      this.#layer = layer === undefined ? 0 : this.#layer + 1;
      this.#span = 0;
    }
    return null;
  }

  #due(layer: CachedLayer, span: SpanIndex): boolean {
    if (!layer.present(span) || layer.occupied[span] !== Occupied.yes) return false;
    let ages = this.#ages.get(layer);
    if (ages === undefined) {
      ages = { checked: new Float64Array(layer.count), use: new Int32Array(layer.count) };
      this.#ages.set(layer, ages);
    }
    const now = performance.now();
    const use = layer.shared.lastUse[span]!;
    const first = ages.checked[span] === 0;
    if (!first && (now - ages.checked[span]! < this.maxAgeMs || use === ages.use[span])) return false;
    ages.checked[span] = now;
    ages.use[span] = use;
    return !first;
  }
}
