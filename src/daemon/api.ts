import type { RecordedProfile } from '../lazy/index.js';
import type { Holder, ImageOptions, UnmountMode, WireError } from '../mount/index.js';

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
  profileStop: '/v1/profile/stop',
  cachePrune: '/v1/cache/prune',
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

export interface MountRequest {
  /** Absolute, links resolved. */
  readonly archivePath: string;
  /** Absolute, links resolved. */
  readonly mountPoint: string;
  /** The caller's: mounting into another namespace than ours would show the caller nothing. */
  readonly mountNamespace: string;
  /** Chosen by the client, the same when it repeats a request. */
  readonly requestId: string;
  /** Only what the caller asked for: it conflicts with what runs already, a default does not. */
  readonly options?: Partial<ImageOptions>;
  readonly suid?: boolean;
  readonly dev?: boolean;
  /** RegistryAccess of oci/: what the caller's environment and credential files say. */
  readonly access?: Readonly<Record<string, unknown>>;
  /** Of the clipd the caller expects; an error if it is another. */
  readonly daemon?: {
    readonly cacheDir?: string;
    readonly cacheSize?: number;
    readonly workers?: number;
    readonly contentCache?: string;
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
  /** ISO 8601. */
  readonly mountedAt: string;
}

export interface UnmountRequest {
  readonly mountPoint: string;
  readonly mode: UnmountMode;
}

export interface UnmountReply {
  readonly mountPoint: string;
  /** It was the image's last place. */
  readonly closed: boolean;
}

export interface ProfileReply {
  readonly mountPoint: string;
  /** Where clipd keeps it; the next mount of this image that is read replaces it. */
  readonly path: string;
  readonly profile: RecordedProfile;
}

export interface ErrorReply {
  readonly error: WireError & { readonly holders?: readonly Holder[] };
}

export interface ConnectionStats {
  readonly id: number;
  readonly identity: string;
  readonly reference: string;
  readonly places: readonly string[];
  readonly detached: boolean;
  readonly treeBytes: number;
  readonly layers: number;
  readonly reads: Readonly<Record<string, number>>;
  readonly inFlight: number;
}

export interface Stats {
  readonly health: Health;
  /** Whether this kernel can be asked to send requests again (Linux ≥ 6.9); null before the first mount. */
  readonly resend: boolean | null;
  readonly cache: Readonly<Record<string, unknown>>;
  readonly counters: Readonly<Record<string, number>>;
  readonly fuse: Readonly<Record<string, number>>;
  readonly connections: readonly ConnectionStats[];
  /** Bytes. The standby is the server process that waits in reserve; 0 when there is none. */
  readonly memory: { readonly serverRss: number; readonly keeperRss: number; readonly standbyRss: number };
}
