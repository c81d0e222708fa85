export { FusePool, type FusePoolOptions } from './pool.js';
export { replyData, replyError, requestResend } from './replies.js';
export type { FuseCounters, FuseMountSpec, ReadMiss } from './worker-protocol.js';
