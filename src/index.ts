/**
 * The public API of the package, and nothing else: names that are not exported here are not public. No folder imports this file.
 */

export type { ArchiveStorage, ImageMeta, LayerMeta, S3Location } from './archive/index.js';
export {
  type ArchiveInfo,
  type FileEntry,
  type FileType,
  inspectArchive,
  type LayerInfo,
  type ListOptions,
  listFiles,
  type OptimizeOptions,
  type OptimizeResult,
  optimizeArchive,
  type ReadOptions,
  readFile,
  type SectionDescription,
  type SourceAccess,
  type VerifyOptions,
  verifyArchive,
} from './archives/index.js';
export { AbortError, ClipError, type ErrorCode, FormatError } from './bytes/index.js';
export type {
  CachedFile,
  CacheOwner,
  CacheSummary,
  ContentCache,
  ContentOptions,
  VerifiedFile,
} from './cache/index.js';
export type { StorageOverride, VerifyProgress, VerifyResult } from './check/index.js';
export {
  ClipdClient,
  type ClosedMount,
  type EngineStats,
  type FetchArchiveOptions,
  fetchArchive,
  type Mount,
  type MountArchiveOptions,
  type MountCallOptions,
  type MountEvents,
  type MountedArchive,
  type MountOptions,
  mount,
  mountArchive,
  NotRunningError,
  type PrefetchOptions,
} from './client/index.js';
export {
  type BundleOptions,
  type CniNetwork,
  type CniPlugin,
  type ContainerOptions,
  type ContainerPaths,
  type ContainerState,
  createBundle,
  type MountContainerOptions,
  type MountedContainer,
  type Net,
  type NetworkOptions,
  type NetworkState,
  type OverlayKind,
  OverlayMounter,
  type OverlayOptions,
  type ProcessOptions,
  type PublishedPort,
  type RunContainerOptions,
  type RunOptions,
  type RunResult,
  runContainer,
  StartError,
  type Stdio,
  type Volume,
} from './container/index.js';
export {
  type CreateFromOCIImageOptions,
  createFromOCIImage,
  type IndexResult,
  type LayerProgress,
} from './index/index.js';
export type { RecordedProfile, TouchedRange } from './lazy/index.js';
export type { Credentials, Platform, RegistryCredentialProvider } from './oci/index.js';
export {
  type ConvertOptions,
  type CreateArchiveOptions,
  type CreateArchiveResult,
  convertArchive,
  createAndUploadArchive,
  createArchive,
  type ExtractArchiveOptions,
  type ExtractArchiveResult,
  extractArchive,
  type S3Target,
  type StoreS3Options,
  type StoreS3Result,
  storeS3,
} from './pack/index.js';
export type { S3Credentials } from './s3/index.js';
export {
  createAndUploadOCIArchive,
  type PullPolicy,
  type UploadedArchive,
  type UploadTarget,
} from './store/index.js';
export type {
  CachedLayerReply,
  CachePruneReply,
  CachePruneRequest,
  CacheReply,
  CacheVerifyReply,
  ConnectionStats,
  DaemonSettings,
  FirstExecRequest,
  Health,
  ImageOptions,
  MountInfoReply,
  MountRequest,
  PrefetchCancelRequest,
  PrefetchReply,
  PrefetchRequest,
  PrefetchState,
  PrefetchWish,
  ProfileReply,
  RecentWarning,
  Stats,
  UnmountMode,
  UnmountReply,
  UnmountRequest,
} from './wire/index.js';
