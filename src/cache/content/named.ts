import { createHash } from 'node:crypto';
import type { ContentCache, ContentOptions } from './types.js';

/*
 * Content that is found by a name and may be replaced, beside content that is found by its own hash: the name's SHA-256 takes the
 * hash's place. The length is not known before it is read, so content begins with it:
 *
 *   0  "CLPN"   4  length of the content (u32, little-endian)   8  SHA-256 of the content   40  content, then zeros up to FIRST
 */

const MAGIC = 0x4e_50_4c_43; // "CLPN" in little-endian
const HEADER = 40;
/** Read by the first request; most profiles are shorter. */
const FIRST = 8 * 1024;

/** The cache's key for a name. */
export function keyOfName(name: string): string {
  return createHash('sha256').update(name).digest('hex');
}

/**
 * The content of a name; null when there is none.
 * @throws Error when it is damaged, longer than `limit`, or the cache is unavailable
 */
export async function getNamed(
  cache: ContentCache,
  name: string,
  limit: number,
  options: ContentOptions,
): Promise<Uint8Array | null> {
  const key = keyOfName(name);
  const got = await cache.getContent(key, 0, FIRST, options);
  if (got === null || got.length !== FIRST) return null;
  const first = Buffer.from(got.buffer, got.byteOffset, FIRST);
  const length = first.readUInt32LE(4);
  if (first.readUInt32LE(0) !== MAGIC) throw new Error(`content ${key} is no named content`);
  if (length > limit) throw new Error(`content ${key} has ${length} bytes, at most ${limit} expected`);
  let content: Uint8Array = first.subarray(HEADER, HEADER + length);
  if (HEADER + length > FIRST) {
    const rest = HEADER + length - FIRST;
    const more = await cache.getContent(key, FIRST, rest, options);
    if (more === null || more.length !== rest) return null; // replaced by a shorter one meanwhile
    content = Buffer.concat([content, more]);
  }
  const digest = createHash('sha256').update(content).digest();
  if (!digest.equals(first.subarray(8, HEADER)))
    throw new Error(`content ${key} is damaged, or was replaced meanwhile`);
  return content;
}

/** Stores content under a name, in place of what is there. */
export async function putNamed(
  cache: ContentCache,
  name: string,
  content: Uint8Array,
  options: ContentOptions,
): Promise<void> {
  const framed = Buffer.alloc(Math.max(FIRST, HEADER + content.length));
  framed.writeUInt32LE(MAGIC, 0);
  framed.writeUInt32LE(content.length, 4);
  createHash('sha256').update(content).digest().copy(framed, 8);
  framed.set(content, HEADER);
  await cache.storeContent(once(framed), keyOfName(name), options);
}

async function* once(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes;
}
