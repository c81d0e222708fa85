/**
 * Fetching: one job per missing span, the queue of requests, the inflate workers that check and store, and in ahead/ the fetching
 * of bytes that no reader waits for yet. It knows layers and spans, not files, mounts or FUSE. Runs in the I/O thread of a server;
 * inflate-worker.ts, span-work.ts and span-decoder.ts run in the inflate workers.
 */

export type { FillPace } from './ahead/fill.js';
export type { LayerPiece } from './ahead/followed-image.js';
export type { AheadOfReaders } from './ahead/of-readers.js';
export type { AheadProgress } from './ahead/span-runner.js';
export { InflatePool, type InflatePoolOptions } from './inflate-pool.js';
export { Priority } from './inflate-tasks.js';
export type { StartName } from './kept-profiles.js';
export type { LayerClaim } from './layer-claim.js';
export { LayerSet, type LayerSetOptions, type OpenLayerOptions } from './layer-set.js';
export type { LazyLayer } from './lazy-layer.js';
export {
  PROFILE_FORMAT,
  parseProfile,
  profileSpans,
  profilesDirectory,
  type RecordedProfile,
  shapedCuts,
  startsOf,
  type TouchedRange,
  touchedRanges,
} from './profile.js';
export { expectedRanges } from './profile-merge.js';
export { type AskRegistry, type FoundProfile, ProfileStore, startName } from './profile-store.js';
export { Recheck } from './recheck.js';
export { MAX_PROFILE_BYTES, packProfile, unpackProfile } from './shared-profiles.js';
export { SpanDecoder, type SpanFault } from './span-decoder.js';
export { type SpanLayers, SpanReader } from './span-reader.js';
export type { BlobSource, Fetched, FileHint, Inflated, LayerProvider, ReadOptions } from './types.js';
export { verifySpans } from './verify-cache.js';
