/**
 * The disk cache of inflated spans, its directory and eviction; in content/ the caches that machines share. It never fetches: that is
 * lazy/'s. Runs in the I/O thread of a server, and in `clipctl cache` for a directory that no clipd has open.
 */

export { type CachedLayer, Occupied } from './cached-layer.js';
export { CachedSpans } from './cached-spans.js';
export {
  type ContentCache,
  type ContentOptions,
  ContentTier,
  DirectoryContentCache,
  MemoryContentCache,
  openContentCache,
  RedisContentCache,
  type RedisOptions,
  S3ContentCache,
  type S3Options,
  serveContentCache,
} from './content/index.js';
export { type CacheOwner, readOwner } from './directory.js';
export {
  type CachedFile,
  type CacheSummary,
  listCache,
  summarizeCache,
  type VerifiedFile,
  verifyCache,
} from './inspect.js';
export { defaultMaxBytes, type EvictionRight, type SpanCacheOptions, type SpanCacheStats } from './options.js';
export type { ScratchFile } from './scratch-files.js';
export { SpanCache } from './span-cache.js';
export { parseSpanFileName } from './span-file-name.js';
