export type { ImageMeta, LayerKind, LayerMeta, Placement, SpanTable } from './types.js';
