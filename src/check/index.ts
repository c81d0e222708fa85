/**
 * Archives as files: opening them with their checks, and verifying every span and file against registry or cache. Runs in the
 * server (opening) and in clients (`clipctl ls`, `inspect`, `verify`).
 */

export { ArchiveFile } from './archive-file.js';
export { LayerIndexes, unindexedLayers } from './layer-indexes.js';
export { readArchiveImage, readArchiveOrigin } from './read-image.js';
export {
  type OpenedSource,
  openImage,
  openStorage,
  overridden,
  placeOf,
  type StorageAccess,
  type StorageOverride,
} from './storage.js';
export { type SpanSource, type VerifyProgress, type VerifyResult, verifyArchive } from './verify.js';
