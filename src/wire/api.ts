import type { CachedFile, CacheSummary, VerifiedFile } from '../cache/index.js';
import type { RecordedProfile } from '../lazy/index.js';
import type { Metric } from '../metrics/index.js';
import type { UnmountMode } from './keeper-protocol.js';
import type { ImageOptions, PlaneState } from './mount-state.js';
import type { PrefetchState } from './prefetch.js';
import type { WireError } from './rpc.js';

/** The control API (docs/api.md): HTTP + JSON over a unix socket. Paths start with the version. */
export const API = {
  health: '/v1/health',
  mounts: '/v1/mounts',
  unmount: '/v1/unmount',
  wait: '/v1/wait',
  stats: '/v1/stats',
  stop: '/v1/stop',
  upgrade: '/v1/upgrade',
  prefetch: '/v1/prefetch',
  prefetchCancel: '/v1/prefetch/cancel',
  profileStop: '/v1/profile/stop',
  firstExec: '/v1/first-exec',
  metrics: '/v1/metrics',
  trace: '/v1/trace',
  journey: '/v1/journey',
  logLevel: '/v1/log-level',
  cache: '/v1/cache',
  cacheLayers: '/v1/cache/layers',
  cachePrune: '/v1/cache/prune',
  cacheVerify: '/v1/cache/verify',
} as const;

export interface Health {
  readonly status: 'ok';
  readonly version: string;
  readonly node: string;
  readonly root: string;
  readonly cacheDir: string;
  /** Of the keeper; see `mountNamespace` in linux/. */
  readonly mountNamespace: string;
  readonly keeperPid: number;
  readonly serverPid: number;
  /** Seconds since the keeper started. */
  readonly uptime: number;
  /** Server processes lost since then. */
  readonly restarts: number;
  readonly mounts: number;
}

/** Of a command so much is looked at for files that it names. */
export const MAX_WORDS = 64;
export const MAX_WORD = 4096;

export interface MountRequest {
  /** Absolute, links resolved. */
  readonly archivePath: string;
  /** Absolute, links resolved. */
  readonly mountPoint: string;
  /** The caller's: it must be the one that clipd finds it in. */
  readonly mountNamespace: string;
  /** Chosen by the client, the same when it repeats a request. */
  readonly requestId: string;
  /** Only what the caller asked for: it conflicts with what runs already, a default does not. */
  readonly options?: Partial<ImageOptions>;
  readonly suid?: boolean;
  readonly dev?: boolean;
  /** RegistryAccess of oci/: what the caller's environment and credential files say. */
  readonly access?: Readonly<Record<string, unknown>>;
  /** SHA-256 of the command that a container will run, in hex. Absent: the image's own. Starts of one command share a profile. */
  readonly command?: string;
  /** Its first words, so that what they name is fetched at once; the first one is empty where the image's own entrypoint comes before the others. */
  readonly words?: readonly string[];
  /** Of the clipd the caller expects; an error if it is another. */
  readonly daemon?: {
    readonly cacheDir?: string;
    readonly cacheSize?: number;
    readonly workers?: number;
    readonly contentCache?: string;
    readonly profileSharing?: boolean;
  };
}

export interface MountInfoReply {
  readonly mountPoint: string;
  readonly archivePath: string;
  readonly identity: string;
  readonly reference: string;
  /** Places that show the same image share one connection. */
  readonly connection: number;
  readonly suid: boolean;
  readonly dev: boolean;
  readonly options: ImageOptions;
  readonly plane: PlaneState;
  /** How many the image has. */
  readonly layers: number;
  /** Of them, those that the kernel would read by itself if the image were mounted now. */
  readonly kernelLayers: number;
  /** ISO 8601. */
  readonly mountedAt: string;
  /** Compressed bytes that came from the registry since this server process runs. Of the image: its places share them. */
  readonly fetchedBytes: number;
  /** Milliseconds from the mount to the first read that clipd answered; null: none yet. Of the image. */
  readonly firstRead: number | null;
  /** Milliseconds from the request for a container to its first process's exec, as its client reported it; null: it did not. */
  readonly firstExec: number | null;
  /** Spans fetched before a reader asks for them, now or earlier. Of the image: its places share it. */
  readonly prefetches: readonly PrefetchState[];
}

export interface UnmountRequest {
  readonly mountPoint: string;
  readonly mode: UnmountMode;
  /** The caller's, if it is not clipd's. */
  readonly mountNamespace?: string;
}

export interface UnmountReply {
  readonly mountPoint: string;
  /** It was the image's last place. */
  readonly closed: boolean;
}

/** How far the first process of a container has come: it runs, or its output begins. */
export type StartEvent = 'exec' | 'output';

export interface FirstExecRequest {
  readonly mountPoint: string;
  /** From the request for the container to the event. */
  readonly milliseconds: number;
  /** Default: exec. */
  readonly event?: StartEvent | undefined;
  /** When it was, in milliseconds since 1970. Default: now. */
  readonly at?: number | undefined;
}

export interface ProfileReply {
  readonly mountPoint: string;
  /** Where clipd keeps it, together with earlier starts of the same command. */
  readonly path: string;
  readonly profile: RecordedProfile;
}

/** Of one image: its places share what is fetched. Without `profile` and `paths` all of it. */
export interface PrefetchRequest {
  readonly mountPoint: string;
  /** What the archive's profile names. */
  readonly profile?: true | undefined;
  /** Paths of the image, and globs. */
  readonly paths?: readonly string[] | undefined;
  /** For all of it: compressed bytes a second, if not as fast as it goes. */
  readonly bytesPerSecond?: number | undefined;
}

/** A prefetch ends with the server that runs it; what it has fetched stays. */
export interface PrefetchReply extends PrefetchState {
  readonly mountPoint: string;
}

export interface PrefetchCancelRequest {
  readonly mountPoint: string;
  /** Default: all that run. */
  readonly id?: string;
}

export interface CacheReply extends CacheSummary {
  readonly maxBytes: number;
  readonly mountedLayers: number;
  /** False while the disk refuses writes: reads are served, nothing is cached. */
  readonly writable: boolean;
  /** How far `cache verify` is, in bytes of spans; null: none runs. */
  readonly verifying: { readonly done: number; readonly total: number } | null;
}

export interface CachedLayerReply extends CachedFile {
  readonly mounted: boolean;
}

export interface CachePruneRequest {
  /** Bytes to keep; default 0. */
  readonly to?: number;
  /** Also what mounts have cached: they fetch it again. Default false. */
  readonly mounted?: boolean;
}

export interface CachePruneReply {
  readonly freedBytes: number;
  readonly usedBytes: number;
  /** Of `usedBytes`: complete layers of mounts, whose files the kernel reads or may read by itself. They stay while they are mounted. */
  readonly sealedBytes: number;
}

export interface CacheVerifyReply {
  readonly files: readonly VerifiedFile[];
  readonly damaged: number;
}

export interface ErrorReply {
  readonly error: WireError;
}

export interface ConnectionStats {
  readonly id: number;
  readonly identity: string;
  readonly reference: string;
  readonly places: readonly string[];
  readonly detached: boolean;
  readonly plane: PlaneState;
  readonly treeBytes: number;
  readonly layers: number;
  /** Compressed bytes that came from the registry since this server process runs. */
  readonly fetchedBytes: number;
  /** As in {@link MountInfoReply}; of all its containers that reported. */
  readonly firstRead: number | null;
  readonly firstExecs: readonly number[];
  readonly reads: Readonly<Record<string, number>>;
  readonly inFlight: number;
  /** Of the image's layers: compressed, as tars, and of the latter the bytes of spans that were read. */
  readonly imageBytes: number;
  readonly tarBytes: number;
  readonly touchedBytes: number;
  /** Reads that were answered from the span cache at once. */
  readonly hits: number;
  /** Milliseconds that reads waited that were not; null: there were none. */
  readonly waits: { readonly p50: number | null; readonly p99: number | null };
  /** The files whose readers waited longest, by their numbers in the tree of the archive. */
  readonly slowest: readonly { readonly nid: number; readonly reads: number; readonly milliseconds: number }[];
  /** Spans fetched before a reader asks for them, now or earlier: by profile, by `--fill`, by request. */
  readonly prefetches: readonly PrefetchState[];
}

export interface Stats {
  readonly health: Health;
  /** Whether this kernel can be asked to send requests again (Linux ≥ 6.9); null before the first mount. */
  readonly resend: boolean | null;
  readonly cache: Readonly<Record<string, unknown>>;
  readonly counters: Readonly<Record<string, number>>;
  /** The same and more as monitoring gets them: docs/metrics.md. */
  readonly metrics: readonly Metric[];
  readonly fuse: Readonly<Record<string, number>>;
  readonly connections: readonly ConnectionStats[];
  readonly memory: MemoryStats;
}

/**
 * Bytes of clipd's processes in memory. `Pss` counts a page that several processes share in parts, so that the sum of the four is what clipd
 * takes. The standby is the server process that waits in reserve, the client the `clipctl` that does; 0 when there is none.
 */
export interface MemoryStats {
  readonly serverRss: number;
  readonly keeperRss: number;
  readonly standbyRss: number;
  readonly clientRss: number;
  readonly serverPss: number;
  readonly keeperPss: number;
  readonly standbyPss: number;
  readonly clientPss: number;
}

/** The levels of a log: a line is written if its level is not below. */
export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';
export const LOG_LEVELS: readonly LogLevel[] = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];

export interface LogLevelReply {
  readonly level: LogLevel;
  readonly before: LogLevel;
}
