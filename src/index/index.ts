export { type ArchiveFile, openArchiveFile } from './archive-file.js';
export {
  type CreateFromOCIImageOptions,
  checkpointBytes,
  createFromOCIImage,
  type IndexExtras,
  type IndexResult,
  indexImage,
} from './create.js';
export type { LayerProgress } from './image-layers.js';
export { SpanReader } from './span-reader.js';
export { type SpanSource, type VerifyProgress, type VerifyResult, verifyArchive } from './verify.js';
