export { DirectoryContentCache } from './directory.js';
export { MemoryContentCache } from './memory.js';
export { openContentCache } from './open.js';
export { RedisContentCache, type RedisOptions } from './redis.js';
export { S3ContentCache, type S3Options } from './s3.js';
export { SocketContentCache, serveContentCache } from './socket.js';
export { ContentTier, type ContentTierOptions } from './tier.js';
export type { ContentCache, ContentOptions } from './types.js';
