export { mapFileRange } from './mapping.js';
export { FusePool, type FusePoolOptions } from './pool.js';
export type { FuseCounters, FuseMountSpec, ReadMiss } from './protocol.js';
export { replyData, replyError, requestResend } from './replies.js';
