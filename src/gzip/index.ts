export { type GzipCheckpoint, GzipIndexer, type GzipSummary } from './indexer.js';
export { SpanInflater } from './span.js';
export { decodeCheckpointState, encodeCheckpointState } from './state.js';
