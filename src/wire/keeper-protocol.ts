import type { ConnectionId } from '../bytes/index.js';
import type { ClientContext, ConnectionState, ImageOptions, PlaceState, PlaneState, PlaneWish } from './mount-state.js';
import type { WireError } from './rpc.js';

/** How a clipd was started. */
export interface DaemonSettings {
  /** Socket, lock, mount list and anchors. */
  readonly root: string;
  readonly cacheDir: string;
  /** Bytes the span cache may take; undefined: cache/'s default. */
  readonly cacheSize?: number;
  /** A shared content cache: cache/'s openContentCache takes the URL. */
  readonly contentCache?: string;
  /** False: profiles of starts are neither published in the content cache nor looked for there. Default true. */
  readonly profileSharing?: boolean;
  /** FUSE worker threads; undefined: cores, at most 4. */
  readonly workers?: number;
  /** Where the metrics are served by TCP, besides the control socket. */
  readonly metricsAddress?: { readonly host: string; readonly port: number };
  /** Leave this many seconds after the last mount; undefined: stay. */
  readonly idleExit?: number;
  /** A library's private engine: ends with the process that holds the other end of its standard input. */
  readonly private?: boolean;
  /** A second server process waits in reserve, so that a crash is over sooner. Default true. */
  readonly standby?: boolean;
  /** Which plane serves images whose mounts do not say; default FUSE. */
  readonly plane?: PlaneWish;
  /** Of the log; undefined: "info". */
  readonly logLevel?: 'debug' | 'info' | 'warn' | 'error';
  /** False: take over as on a kernel that cannot send requests again (Linux < 6.9). For tests. */
  readonly resend?: boolean;
}

/**
 * Where the keeper of `clipctl daemon` finds its settings, as JSON. Not among the arguments, which every user of the host may read: the URL of a
 * content cache may hold a password.
 */
export const SETTINGS_VARIABLE = 'CLIP_DAEMON_SETTINGS';

/** The first message to a server. It may have been launched before its keeper knew any of this. */
export interface ServerStart {
  readonly settings: DaemonSettings;
  /** It will wait in reserve: it has time to load everything before it says hello. */
  readonly inReserve: boolean;
  /** Of a server that was launched before its keeper was told: */
  readonly late?: {
    /** Variables to be set. */
    readonly environment: NodeJS.ProcessEnv;
    /** Standard error is to become the log in the root. */
    readonly ownLog: boolean;
  };
}

/** The control socket, in the root. */
export const SOCKET_NAME = 'clipd.sock';
/** Locked by the keeper, whose process id it holds. */
export const LOCK_FILE = 'clipd.lock';

/** How often a server says that it lives. */
export const ALIVE_MS = 3000;

/** Descriptors a server process finds open: Node's IPC channel takes 3. */
export const LISTEN_FD = 4;
export const FDS_SOCKET_FD = 5;

/** Bumped when keeper and server of different builds would misunderstand each other: an upgrade across it is refused. */
export const KEEPER_PROTOCOL = 4;

export interface HelloResult {
  readonly connections: readonly ConnectionState[];
  readonly keeperPid: number;
  /** Servers lost since the keeper started, and when that was (ms since 1970). */
  readonly restarts: number;
  readonly startedAt: number;
  /** Without root, mounts are made by fusermount3, and one image at two places is two connections. */
  readonly rootless: boolean;
  /** It takes places of other mount namespaces. Absent: of an earlier version. */
  readonly foreign?: true;
}

export interface ConnectRequest {
  readonly identity: string;
  readonly archivePath: string;
  readonly options: ImageOptions;
  readonly client: ClientContext;
  readonly plane: PlaneState;
  /** Under which the archive's descriptor was sent. */
  readonly fdToken: string;
  /** Without root the connection is mounted here, and nowhere else. */
  readonly place: PlaceRequest;
}

export interface PlaceRequest {
  /** As it was opened. */
  readonly path: string;
  readonly suid: boolean;
  readonly dev: boolean;
  readonly requestId: string;
}

export type UnmountMode = 'normal' | 'lazy' | 'force';

/** What the server asks of the keeper. [fd …] marks descriptors that travel beside the message. */
export type KeeperMethods = {
  hello(args: { protocol: number; version: string }): Promise<HelloResult>;
  /** Everything is restored and requests are answered. */
  serving(args: null): void;
  /** The server's main thread works. Sent every ALIVE_MS, because a server that is silent is killed. */
  alive(args: null): void;
  /** It will exit: the cache directory cannot be used, or the like. */
  cannotServe(args: { error: WireError }): void;
  list(args: null): Promise<readonly ConnectionState[]>;
  /** Process ids: the server that waits in reserve, if there is one. */
  /** `client`: of the client in reserve; a keeper of an earlier version has none. */
  standby(args: null): { pid: number | null; client?: number | null };
  /**
   * → [/dev/fuse, archive]. `resumed`: another server was asked to answer it before. `carried`: the kernel's own mount has been
   * made, or none is wanted.
   */
  take(args: { id: ConnectionId }): { client: ClientContext; resumed: boolean; carried: boolean; fdToken: string };
  /** [archive] → [/dev/fuse]: opens and mounts a connection. */
  connect(args: ConnectRequest): Promise<{ connection: ConnectionState; fdToken: string }>;
  /**
   * [the root of the kernel's own mount, which is nowhere in the tree yet]: from now on places show it. The keeper cannot make that mount
   * itself, because the kernel asks the server for the layers' files. `files`: the layers that it reads from the cache's own.
   */
  carry(args: { id: ConnectionId; fdToken: string; files: readonly number[] }): Promise<ConnectionState>;
  /** [the place's directory, the one that it lies in; both O_PATH] → a bind mount there. `client` replaces what is kept of how the registry is reached. */
  bind(args: { id: ConnectionId; place: PlaceRequest; fdToken: string; client?: ClientContext }): PlaceState;
  /** The same with [the place's directory, its mount namespace], for a place of another mount namespace than ours. */
  bindForeign(args: { id: ConnectionId; place: PlaceRequest; fdToken: string; client?: ClientContext }): PlaceState;
  /** Makes a restored place this request's own. */
  adopt(args: { id: ConnectionId; place: PlaceRequest; client: ClientContext }): PlaceState;
  /** `closed`: it was the last place, the connection is unmounted too. Throws BUSY. */
  unbind(args: { path: string; mode: UnmountMode }): Promise<{ id: ConnectionId; closed: boolean }>;
  /** The kernel has ended this connection, or it cannot be served: drop it, unmounting what is left of it. */
  drop(args: { id: ConnectionId; reason: string | null }): void;
  stop(args: { onlyIfIdle: boolean }): { stopping: boolean };
  upgrade(args: { serverModule: string }): Promise<{ version: string }>;
};

/** What the keeper asks of the server. */
export type ServerMethods = {
  /** Stop reading requests, finish what is under way if it takes less than `milliseconds`, let go of the cache, exit. */
  drain(args: { milliseconds: number }): Promise<void>;
  /** Another log has been begun: turn to it. */
  turnToLog(args: null): void | Promise<void>;
};
