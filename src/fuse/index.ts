/**
 * The FUSE plane: the kernel's protocol, and the workers that answer from the tree and the span cache. A worker passes everything that
 * would wait to the I/O thread. No fetching and no mounting here. Runs in a server: pool.ts and replies.ts in its I/O thread, the rest in
 * FUSE workers, but for page-drops-main.ts, which is a short-lived process.
 */

export { MountHits } from './mount-hits.js';
export { dropPages, type FileRange, type PathRange } from './page-drops.js';
export { FusePool, type FusePoolOptions } from './pool.js';
export { replyData, replyError, requestResend } from './replies.js';
export type { FuseCounters, FuseMountSpec, ReadMiss } from './worker-protocol.js';
