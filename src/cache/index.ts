export type { CachedLayer } from './cached-layer.js';
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
export { type CacheOwner, readOwner, SPAN_FILE } from './directory.js';
export {
  type CachedFile,
  type CacheSummary,
  listCache,
  summarizeCache,
  type VerifiedFile,
  verifyCache,
} from './inspect.js';
export { type EvictionRight, SpanCache, type SpanCacheOptions, type SpanCacheStats } from './span-cache.js';
