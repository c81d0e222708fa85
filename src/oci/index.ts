/**
 * Images where they are: references, credentials, registries over HTTP, image layouts on disk, manifests. It gives bytes of blobs
 * and checks manifests and configs; layers are checked by their readers, span by span. Runs in the main thread of an index build and
 * in the I/O thread of a server.
 */

export { captureAccess, type RegistryAccess } from './access.js';
export { checkLiteral, guardedLookup } from './addresses.js';
export {
  type ArtifactRepository,
  archiveTag,
  layerTag,
  MAX_ARCHIVE_BYTES,
  type PushedArchive,
  profileTag,
} from './artifacts.js';
export { type BlobRange, rangesAfter } from './byte-ranges.js';
export type { CredentialLookup } from './credential-order.js';
export { type Credentials, credentialsOption, type RegistryCredentialProvider } from './credentials.js';
export { digestOf, expectDigest, isDigest, verifyDigest } from './digest.js';
export { mayPass, TransientError } from './errors.js';
export { examineRegistry, type RegistryFinding } from './examine.js';
export { KeptLayers } from './kept-layers.js';
export { isForeignLayer } from './media-types.js';
export { openArtifacts, openImageSource, type SourceOptions, sourceForArchive } from './open.js';
export { formatPlatform, hostPlatform, type Platform, parsePlatform } from './platform.js';
export {
  type LayoutReference,
  originReference,
  parseIndexSource,
  parseReference,
  type Reference,
  type RegistryReference,
} from './reference.js';
export type { LayerDescriptor, ResolvedImage, ResolveOptions } from './resolve.js';
export type { RetryPolicy } from './retry.js';
export { untoldRefusal } from './several-ranges.js';
export type {
  ArchiveOrigin,
  BlobOptions,
  BlobTarget,
  ByteRange,
  ImageArtifacts,
  ImageSource,
  LayerArtifacts,
  SourceCounters,
} from './source.js';
export { countWrongAnswer, type WrongAnswer, wrongAnswers } from './wrong-answers.js';
