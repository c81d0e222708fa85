export type { AheadProgress, FillOptions } from './ahead.js';
export type { FollowedImage, Follower } from './follower.js';
export { InflatePool, type InflatePoolOptions } from './inflate-pool.js';
export { LayerSet, type LayerSetOptions, type OpenLayer, type OpenLayerOptions } from './layer-set.js';
export type { LazyLayer } from './lazy-layer.js';
export {
  PROFILE_FORMAT,
  parseProfile,
  profileSpans,
  profilesDirectory,
  type RecordedProfile,
  shapedCuts,
  type TouchedRange,
  touchedRanges,
} from './profile.js';
export { Priority } from './protocol.js';
export type { BlobSource } from './range-request.js';
export type { FileHint, LayerProvider, ReadOptions } from './types.js';
export { verifySpans } from './verify-cache.js';
