/**
 * Content caches: Redis, S3, a directory, a socket, memory, and the tier around each of them (timeouts, back-off, a queue of
 * stores). Client libraries load on first use. Nothing that a cache returns is trusted. Runs in the I/O thread of a server.
 */

export { DirectoryContentCache } from './directory.js';
export { MemoryContentCache } from './memory.js';
export { openContentCache } from './open.js';
export { RedisContentCache, type RedisOptions } from './redis.js';
export { S3ContentCache, type S3Options } from './s3.js';
export { SocketContentCache, serveContentCache } from './socket.js';
export { ContentTier, type ContentTierOptions } from './tier.js';
export type { ContentCache, ContentOptions } from './types.js';
