/**
 * The public API of the package, and nothing else: names that are not exported here are not public. No folder imports this file.
 */

export type { ImageMeta, LayerMeta, S3Location } from './archive/index.js';
export { AbortError, ClipError, type ErrorCode, FormatError } from './bytes/index.js';
export type { ContentCache, ContentOptions } from './cache/index.js';
export type { StorageOverride } from './check/index.js';
export { type MountArchiveOptions, type MountedArchive, mountArchive, type PrefetchOptions } from './client/index.js';
export {
  type BundleOptions,
  type ContainerOptions,
  createBundle,
  OverlayMounter,
  type ProcessOptions,
  type RunContainerOptions,
  type RunResult,
  runContainer,
  StartError,
} from './container/index.js';
export {
  type CreateFromOCIImageOptions,
  createFromOCIImage,
  type IndexResult,
  type LayerProgress,
} from './index/index.js';
export type { RecordedProfile, TouchedRange } from './lazy/index.js';
export type { Credentials, Platform, RegistryCredentialProvider } from './oci/index.js';
export type { S3Credentials } from './s3/index.js';
export type {
  ConnectionStats,
  Health,
  PrefetchReply,
  PrefetchRequest,
  PrefetchState,
  PrefetchWish,
  ProfileReply,
  Stats,
} from './wire/index.js';
