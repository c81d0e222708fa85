import type { ConnectionId } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import type { StorageOverride } from '../check/index.js';
import { OwnDirectory } from '../paths/index.js';

/** How an image's bytes are fetched: the same for every place where one clipd shows that image. */
export interface ImageOptions {
  readonly readahead: boolean;
  /** Seconds until a read that gets no bytes ends with EIO. */
  readonly readTimeout: number;
  readonly plainHttp: boolean;
  /** Fetch the spans of the archive's profile, in its order, as soon as it is mounted. */
  readonly prefetch: boolean;
  /** Fetch the rest of the image while readers are quiet. */
  readonly fill: boolean;
  /** Check each cached span before each read that it answers. */
  readonly paranoid: boolean;
  /** Which file system answers: the kernel's EROFS, ours, or the kernel's where it can. */
  readonly plane: PlaneWish;
  /** Where the data is, if not where the archive says. */
  readonly storage?: StorageOverride | undefined;
}

export type PlaneWish = 'kernel' | 'fuse' | 'auto';

/** The file system that answers for an image, and why that one. */
export interface PlaneState {
  readonly kind: 'kernel' | 'fuse';
  /** For people: "as set" (by a flag, a setting or the default), or what keeps the kernel from it. */
  readonly reason: string;
  /** Layers that the kernel reads from the cache's own files, by index. It reads the others through clipd's connection. */
  readonly files: readonly number[];
}

/** What lists of earlier versions mean. */
const FUSE_PLANE: PlaneState = { kind: 'fuse', reason: 'as set', files: [] };

export const DEFAULT_IMAGE_OPTIONS: ImageOptions = {
  readahead: true,
  readTimeout: 300,
  plainHttp: false,
  prefetch: true,
  fill: false,
  paranoid: false,
  plane: 'fuse',
};

/**
 * The client's way to the registry, which only the client can see: oci/'s RegistryAccess, as JSON. Never written to disk
 * (docs/architecture.md, "Persisted state and what is only in memory").
 */
export type ClientContext = Readonly<Record<string, unknown>>;

/** Numbers by which the keeper finds a mount of another mount namespace. 64 bits, in decimal. */
export interface ForeignPlace {
  /** The boot that they hold for. */
  readonly boot: string;
  readonly namespace: string;
  readonly mount: string;
}

/** One place where users see an image. */
export interface PlaceState {
  /** Of clipd's own mount namespace, or a `foreignName`. */
  readonly path: string;
  readonly foreign?: ForeignPlace;
  readonly suid: boolean;
  readonly dev: boolean;
  /** The client's own id of the request: a repeated request finds its mount done. */
  readonly requestId: string;
  /** Milliseconds since 1970, for people. */
  readonly mountedAt: number;
  /** Brought back after everything was killed, and not asked for since: the client that asks for it now gets it. */
  readonly restored?: true;
}

/** One FUSE connection. */
export interface ConnectionState {
  readonly id: ConnectionId;
  /** Of the archive: the same files under the same name are mounted once. */
  readonly identity: string;
  readonly archivePath: string;
  /** Where the connection itself is mounted: ROOT/mnt/ID, or, without root, its only place. */
  readonly anchor: string;
  /** Bind mounts of the anchor, or of the kernel's own mount; without root the anchor itself. */
  readonly places: readonly PlaceState[];
  /** Absent: FUSE. See `planeOf`. */
  readonly plane?: PlaneState;
  readonly options: ImageOptions;
  /** Out of the tree, but processes still hold files of it. */
  readonly detached: boolean;
}

export function planeOf(state: ConnectionState): PlaneState {
  return state.plane ?? FUSE_PLANE;
}

interface StateFile {
  readonly format: 1;
  readonly connections: readonly ConnectionState[];
}

/** The list of mounts, in the root. */
export const STATE_FILE = 'mounts.json';

/** Written by rename, so that a crash leaves the old list or the new one. */
export function saveState(root: OwnDirectory, connections: readonly ConnectionState[]): void {
  const file: StateFile = { format: 1, connections };
  root.replace(STATE_FILE, `${JSON.stringify(file, null, 1)}\n`);
}

/**
 * The mounts of the clipd that had this root before.
 * @throws ClipError if this version does not understand the file (docs/architecture.md, "Persisted state and what is only in
 * memory")
 */
export function loadState(root: OwnDirectory): readonly ConnectionState[] {
  const path = `${root.path}/${STATE_FILE}`;
  const text = root.read(STATE_FILE);
  if (text === null) return [];
  const refuse = (detail: string, cause?: unknown): never => {
    throw new ClipError('UNSUPPORTED', `${path}: ${detail}`, {
      cause,
      hint: 'use the clip that wrote it to unmount the mounts that it lists, or remove the file',
    });
  };
  let file: Partial<StateFile>;
  try {
    file = JSON.parse(text) as Partial<StateFile>;
  } catch (cause) {
    return refuse('not a mount list (JSON expected)', cause);
  }
  if (file?.format !== 1) return refuse(`mount list of format ${String(file?.format)}, 1 expected`);
  if (!Array.isArray(file.connections) || !file.connections.every(isConnection)) return refuse('damaged mount list');
  return file.connections;
}

/** Where the clipd that had this root before had mounted something; empty when its list cannot be read. */
export function listedPlaces(root: string): string[] {
  let directory: OwnDirectory | null = null;
  try {
    directory = OwnDirectory.open(root, { orRoots: true });
    return loadState(directory).flatMap((connection) => connection.places.map((place) => place.path));
  } catch {
    return [];
  } finally {
    directory?.close();
  }
}

/** Takes a place off the list of a clipd that does not run. A list that cannot be read stays as it is. */
export function forgetPlace(root: OwnDirectory, path: string): void {
  let connections: readonly ConnectionState[];
  try {
    connections = loadState(root);
  } catch {
    return;
  }
  if (connections.length === 0) return;
  const kept = connections.map((c) => ({ ...c, places: c.places.filter((place) => place.path !== path) }));
  saveState(
    root,
    kept.filter((c) => c.places.length > 0),
  );
}

function isConnection(value: unknown): value is ConnectionState {
  const c = value as Partial<ConnectionState> | null;
  return (
    typeof c === 'object' &&
    c !== null &&
    Number.isSafeInteger(c.id) &&
    typeof c.identity === 'string' &&
    typeof c.archivePath === 'string' &&
    typeof c.anchor === 'string' &&
    typeof c.options === 'object' &&
    Array.isArray(c.places) &&
    (c.plane === undefined || isPlane(c.plane)) &&
    c.places.every((p: Partial<PlaceState>) => typeof p?.path === 'string')
  );
}

function isPlane({ kind, reason, files }: Partial<PlaneState>): boolean {
  return (kind === 'kernel' || kind === 'fuse') && typeof reason === 'string' && Array.isArray(files);
}
