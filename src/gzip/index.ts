export { type GzipCheckpoint, type GzipEvents, GzipIndexer, type GzipSummary } from './indexer.js';
export { KernelMemory, type KernelShape, type LinearMemory } from './memory.js';
export { SpanInflater } from './span.js';
export { decodeCheckpointState, encodeCheckpointState } from './state.js';
export { type MemberTrailer, OutputSums } from './sums.js';
