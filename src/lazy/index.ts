export { InflatePool, type InflatePoolOptions } from './inflate-pool.js';
export { LayerSet, type LayerSetOptions, type OpenLayer, type OpenLayerOptions } from './layer-set.js';
export type { FileHint, LayerProvider, LazyLayer, ReadOptions } from './lazy-layer.js';
export { Priority } from './protocol.js';
export type { BlobSource } from './range-request.js';
