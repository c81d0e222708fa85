/**
 * A content-addressed cache that machines share (docs/api.md, "ContentCache"). The hash is a span's SHA-256 in hex, the content
 * its compressed bytes. Nothing that it returns is trusted: the digest is checked.
 *
 * `null` is a miss, a rejection says that the cache is unavailable. Neither fails a read, and they are counted apart.
 */
export interface ContentCache {
  /** Bytes [offset, offset + length) of the content, exactly; null when it does not have all of them. */
  getContent(hash: string, offset: number, length: number, options: ContentOptions): Promise<Uint8Array | null>;
  /** Stores content under its hash, as a whole or not at all. Returns the hash; null when another program is storing it already. */
  storeContent(chunks: AsyncIterable<Uint8Array>, hash: string, options: ContentOptions): Promise<string | null>;
  /** Cheaper than getContent; asked before something is stored. */
  has?(hash: string, options: ContentOptions & { readonly length: number }): Promise<boolean>;
  /** Called once, before the first lookup: loads and connects what the first lookup would have to. May reject. */
  connect?(): Promise<void>;
  close?(): Promise<void>;
}

export interface ContentOptions {
  /** What belongs together: the layer's digest. For caches that route by it. */
  readonly routingKey: string;
  readonly signal?: AbortSignal | undefined;
}

/** Of clip's own lookups. */
export interface LookupOptions extends ContentOptions {
  /** Memory for the whole of the content, for a cache that reads it out of a socket. After a rejection or an abort bytes may still come into it. */
  readonly allocate?: ((length: number) => Uint8Array) | undefined;
}

/** Checks a hash, which becomes a file name and part of keys. */
export function checkHash(hash: string): string {
  if (!/^[0-9a-f]{16,128}$/.test(hash)) throw new RangeError(`not a content hash: ${hash.slice(0, 80)}`);
  return hash;
}

/** All bytes of `chunks`. @throws Error as soon as there are more than `limit`; what had come is let go */
export async function collect(
  chunks: AsyncIterable<Uint8Array>,
  limit = Number.POSITIVE_INFINITY,
): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of chunks) {
    length += chunk.length;
    if (length > limit) throw new Error(`an answer of more than ${limit} bytes, which is all that was asked for`);
    parts.push(chunk);
  }
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
}
