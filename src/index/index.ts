export {
  type CreateFromOCIImageOptions,
  checkpointBytes,
  createFromOCIImage,
  type IndexExtras,
  type IndexResult,
  indexImage,
} from './create.js';
export type { LayerProgress } from './image-layers.js';
