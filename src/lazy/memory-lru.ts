import type { LayerId, SpanIndex } from '../bytes/index.js';

/** Verified spans in memory, least recently used first out: for layers whose cache file cannot take them. */
export class MemoryLru {
  readonly #spans = new Map<string, Uint8Array>();
  #bytes = 0;

  constructor(readonly maxBytes: number) {}

  get bytes(): number {
    return this.#bytes;
  }

  has(layer: LayerId, span: SpanIndex): boolean {
    return this.#spans.has(`${layer}.${span}`);
  }

  get(layer: LayerId, span: SpanIndex): Uint8Array | undefined {
    const key = `${layer}.${span}`;
    const bytes = this.#spans.get(key);
    if (bytes === undefined) return undefined;
    this.#spans.delete(key);
    this.#spans.set(key, bytes);
    return bytes;
  }

  put(layer: LayerId, span: SpanIndex, bytes: Uint8Array): void {
    this.delete(layer, span);
    if (bytes.length > this.maxBytes) return;
    for (const [key, oldest] of this.#spans) {
      if (this.#bytes + bytes.length <= this.maxBytes) break;
      this.#spans.delete(key);
      this.#bytes -= oldest.length;
    }
    this.#spans.set(`${layer}.${span}`, bytes);
    this.#bytes += bytes.length;
  }

  delete(layer: LayerId, span: SpanIndex): void {
    const key = `${layer}.${span}`;
    this.#bytes -= this.#spans.get(key)?.length ?? 0;
    this.#spans.delete(key);
  }

  /** The layer is closed. */
  deleteLayer(layer: LayerId): void {
    for (const [key, bytes] of this.#spans) {
      if (!key.startsWith(`${layer}.`)) continue;
      this.#spans.delete(key);
      this.#bytes -= bytes.length;
    }
  }
}
