/**
 * The words between processes: control API and its checks, keeper protocol, RPC, descriptors over sockets, the list of mounts, the
 * journal of reads, the log's file, and the paths where processes find each other. No process's own work. Runs in all processes.
 */

export {
  API,
  type CachedLayerReply,
  type CachePruneReply,
  type CachePruneRequest,
  type CacheReply,
  type CacheVerifyReply,
  type ConnectionStats,
  type ErrorReply,
  type FirstExecRequest,
  type Health,
  LOG_LEVELS,
  type LogLevel,
  type LogLevelReply,
  MAX_WORD,
  MAX_WORDS,
  type MemoryStats,
  type MountInfoReply,
  type MountRequest,
  type PrefetchCancelRequest,
  type PrefetchReply,
  type PrefetchRequest,
  type ProfileReply,
  type StartEvent,
  type Stats,
  type UnmountReply,
  type UnmountRequest,
} from './api.js';
export { keeperEnvironment, restoreExtraCertificates } from './environment.js';
export { FdSocket } from './fd-socket.js';
export {
  JOURNEY_KEPT_MS,
  JOURNEYS_DIRECTORY,
  type JourneyColumns,
  type JourneyLayer,
  type JourneyReply,
  SpanFate,
  type TracedRead,
} from './journey.js';
export {
  ALIVE_MS,
  type ConnectRequest,
  type DaemonSettings,
  FDS_SOCKET_FD,
  type HelloResult,
  KEEPER_PROTOCOL,
  type KeeperMethods,
  LISTEN_FD,
  LOCK_FILE,
  type PlaceRequest,
  SETTINGS_VARIABLE,
  type ServerMethods,
  type ServerStart,
  SOCKET_NAME,
  type UnmountMode,
} from './keeper-protocol.js';
export {
  defaultCacheDir,
  defaultRoot,
  makeDirectory,
  ownMountNamespace,
  PRIVATE_ROOT_PREFIX,
  resolveArchive,
  resolveDirectory,
  resolveMountPoint,
  resolvePlace,
} from './locations.js';
export { rotateLog, turnToLog } from './log-file.js';
export {
  type ClientContext,
  type ConnectionState,
  DEFAULT_IMAGE_OPTIONS,
  type ForeignPlace,
  forgetPlace,
  type ImageOptions,
  listedPlaces,
  loadState,
  type PlaceState,
  type PlaneState,
  type PlaneWish,
  planeOf,
  STATE_FILE,
  saveState,
} from './mount-state.js';
export {
  imageAnchorName,
  isClipMount,
  isWithin,
  KERNEL_FS_MAGIC,
  kernelAnchor,
  kernelSourceFits,
  kernelSourceName,
  mountAt,
  mountOf,
  mountSource,
  ownClipMount,
  parseSource,
} from './paths.js';
export { foreignName, foreignParts, isPlaceName } from './place-name.js';
export type { PrefetchState, PrefetchWish } from './prefetch.js';
export {
  ADOPT,
  ADOPTED,
  IDLE_EXIT_SECONDS,
  KEEPER_FLAGS,
  KEEPER_MAIN,
  type KeeperReport,
  type KeeperStart,
  SERVER_ENVIRONMENT,
  SERVER_MAIN,
  SPARE_DIRECTORY,
  SPARE_MAIN,
} from './programs.js';
export { JOURNAL_DIRECTORY, type JournaledRead, kernelResends, ReadJournal } from './read-journal.js';
export { fromWireError, Rpc, toWireError, type WireError } from './rpc.js';
export {
  cachePruneRequest,
  cacheSize,
  cacheVerifyRequest,
  firstExecRequest,
  imageOptionChecks,
  logLevelRequest,
  mountRequest,
  prefetchCancelRequest,
  prefetchRequest,
  profileStopRequest,
  stopRequest,
  storageOverride,
  unmountRequest,
  upgradeRequest,
} from './schema.js';
export { parseWarning, type RecentWarning } from './warnings.js';
