/**
 * Archives by what users name: a file, or an image whose archive is kept below the cache directory or made now. Runs in the process
 * that asks; several may use one store.
 */
export { ArchiveStore, type ListedArchive, layerIndexesOf } from './archive-store.js';
export { type PushedLayers, pushLayerIndexes } from './push-layer-indexes.js';
export { type PushedProfiles, pushProfiles } from './push-profiles.js';
export { type FindRemoteOptions, findRemoteArchive } from './remote-archive.js';
export {
  type PullPolicy,
  type ResolveArchiveOptions,
  type ResolvedArchive,
  resolveArchive,
} from './resolve-archive.js';
export { fetchS3Archive, type S3ArchiveOptions, s3StoreKey } from './s3-archive.js';
export {
  createAndUploadOCIArchive,
  type PushedToS3,
  pushToS3,
  type UploadedArchive,
  type UploadTarget,
} from './s3-push.js';
