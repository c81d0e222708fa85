/**
 * gzip and deflate: the inflate kernel (WebAssembly, in assembly/), checkpoints at any symbol, sparse windows. Bytes in, values
 * out: no I/O, no spans of an archive, no digests. Runs in the decode workers of an index build and in the inflate workers of a server.
 */

export { MemoryCrc32 } from './crc32.js';
export { type GzipCheckpoint, type GzipEvents, GzipIndexer, type GzipSummary } from './indexer.js';
export { KernelMemory, type KernelShape, type LinearMemory } from './memory.js';
export { SpanInflater } from './span.js';
export {
  type CheckpointState,
  CheckpointStateError,
  decodeCheckpointState,
  encodeCheckpointState,
  NO_STATE,
} from './state.js';
export { type MemberTrailer, OutputSums } from './sums.js';
