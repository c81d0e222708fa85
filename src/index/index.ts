export { type ArchiveFile, openArchiveFile } from './archive-file.js';
export {
  type CreateFromOCIImageOptions,
  createFromOCIImage,
  DEFAULT_CHECKPOINT_MIB,
  type IndexExtras,
  type IndexResult,
  indexImage,
  MAX_CHECKPOINT_MIB,
  MIN_CHECKPOINT_MIB,
} from './create.js';
export type { LayerProgress } from './image-layers.js';
export { SpanReader } from './span-reader.js';
export { type SpanSource, type VerifyProgress, type VerifyResult, verifyArchive } from './verify.js';
