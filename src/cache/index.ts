export type { CachedLayer } from './cached-layer.js';
export { type CacheOwner, readOwner } from './directory.js';
export { type EvictionRight, SpanCache, type SpanCacheOptions, type SpanCacheStats } from './span-cache.js';
export { noteUse, type SharedLayer, spanAt } from './types.js';
