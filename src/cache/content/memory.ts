import { type ContentCache, type ContentOptions, checkHash, collect } from './types.js';

/** In this process, least recently used out first. For tests, and to share between mounts of a library user. */
export class MemoryContentCache implements ContentCache {
  readonly #entries = new Map<string, Uint8Array>();
  #bytes = 0;

  constructor(readonly maxBytes: number) {}

  get bytes(): number {
    return this.#bytes;
  }

  async getContent(hash: string, offset: number, length: number, _options: ContentOptions): Promise<Uint8Array | null> {
    const entry = this.#entries.get(checkHash(hash));
    if (entry === undefined || offset + length > entry.length) return null;
    this.#entries.delete(hash);
    this.#entries.set(hash, entry);
    return entry.slice(offset, offset + length);
  }

  async storeContent(chunks: AsyncIterable<Uint8Array>, hash: string, _options: ContentOptions): Promise<string> {
    checkHash(hash);
    const content = Uint8Array.from(await collect(chunks));
    this.#remove(hash);
    if (content.length > this.maxBytes) return hash;
    for (const oldest of this.#entries.keys()) {
      if (this.#bytes + content.length <= this.maxBytes) break;
      this.#remove(oldest);
    }
    this.#entries.set(hash, content);
    this.#bytes += content.length;
    return hash;
  }

  async has(hash: string): Promise<boolean> {
    return this.#entries.has(hash);
  }

  #remove(hash: string): void {
    this.#bytes -= this.#entries.get(hash)?.length ?? 0;
    this.#entries.delete(hash);
  }
}
