import type { SpanIndex } from '../bytes/index.js';
import type { Priority } from './inflate-tasks.js';
import type { SpanResult } from './job.js';
import type { LazyLayer } from './lazy-layer.js';
import type { LayerProvider, ReadOptions } from './types.js';

/** One archive's claim on a layer: reads go through it, so that bytes are asked for from the archive's own source first. */
export class LayerClaim {
  readonly #provider: LayerProvider;
  #release: (() => void) | null;

  constructor(
    /** Shared by all archives that opened the same layer with the same span table. */
    readonly layer: LazyLayer,
    provider: LayerProvider,
    release: () => void,
  ) {
    this.#provider = provider;
    this.#release = release;
  }

  /** As LazyLayer.read. */
  read(offset: number, length: number, options?: ReadOptions): Promise<Uint8Array> {
    return this.layer.read(this.#provider, offset, length, options);
  }

  /** As LazyLayer.ahead. */
  ahead(span: SpanIndex, priority: Exclude<Priority, 0>): Promise<SpanResult> | null {
    return this.layer.ahead(this.#provider, span, priority);
  }

  /** No read of this claim may be under way, and no FUSE worker may use `layer.shared` for it any more. */
  close(): void {
    this.#release?.();
    this.#release = null;
  }
}
