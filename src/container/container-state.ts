import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import type { NetworkState } from './network.js';
import type { OverlayKind } from './overlay.js';
import { checkOwnDirectory, ownDirectory } from './own-directory.js';

/*
 * A container is a directory below clipd's root, ROOT/ID. Its state file is written before anything is mounted and removed after
 * everything else, so that `clipctl umount --cid` knows what to take down however a process ended.
 */

/** Where the parts of a container are, but for those that its state names. */
export interface ContainerPaths {
  /** The OCI bundle: ROOT/ID. */
  readonly bundle: string;
  /** A tmpfs with the writable layer, where that was asked for. */
  readonly tmpfs: string;
  readonly config: string;
  readonly log: string;
  readonly pid: string;
}

export interface ContainerState {
  readonly format: 1;
  readonly id: string;
  /** What the image is called. */
  readonly reference: string;
  /** "" when the image was unpacked. */
  readonly archivePath: string;
  /** What shows the image: a mount of clipd's, or a directory with all of it. */
  readonly plane: 'mount' | 'unpack';
  /** The merged tree. */
  readonly rootfs: string;
  /** The image, read-only. */
  readonly image: string;
  /** null: none is mounted yet. */
  readonly overlay: OverlayKind | null;
  /** Holds `upper` and `work`. */
  readonly writable: string;
  /** The user's own directory (`--upper`): it stays. */
  readonly keepWritable: boolean;
  /** Path of the runtime that `clipctl run` started; null: it is started by hand. */
  readonly runtime: string | null;
  /** null: the machine's, or none. */
  readonly network: NetworkState | null;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
}

const STATE_FILE = 'container.json';

/** What runc takes (libcontainer: idRegex), without a "." or "-" at the beginning, and short enough for a file name and a host name. */
const ID = /^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}$/;

/** clipd's own names in its root. */
const RESERVED = /^(mnt|mounts\.json.*|clipd\..*|journal.*|reads.*|content\.sock|cache)$/;

/** @throws ClipError USAGE */
export function checkContainerId(id: string): void {
  if (ID.test(id) && !RESERVED.test(id)) return;
  const why = RESERVED.test(id) ? 'clipd uses that name' : 'it is none';
  throw new ClipError('USAGE', `${JSON.stringify(id)} cannot be a container's id: ${why}`, {
    hint: 'an id has up to 128 letters, digits, "_", ".", "-", "+", and begins with a letter, a digit or "_"',
  });
}

/** Twelve hex digits, as Docker shows them. */
export function newContainerId(): string {
  return randomBytes(6).toString('hex');
}

export function containerPaths(root: string, id: string): ContainerPaths {
  const bundle = join(root, id);
  return {
    bundle,
    tmpfs: join(bundle, 'tmpfs'),
    config: join(bundle, 'config.json'),
    log: join(bundle, 'runtime.log'),
    pid: join(bundle, 'pid'),
  };
}

/** Where writable layers are: on the cache's disk, since /run is memory. Two roots may share a cache directory one after the other. */
export function writableDirectory(root: string, cacheDir: string, id: string): string {
  const of = createHash('sha256').update(root).digest('hex').slice(0, 8);
  return join(cacheDir, 'containers', `${id}@${of}`);
}

/** @throws ClipError USAGE, BUSY when it is in use */
export function checkFreeId(root: string, id: string): void {
  checkContainerId(id);
  if (existsSync(containerPaths(root, id).bundle)) throw inUse(id);
}

function inUse(id: string, cause?: unknown): ClipError {
  return new ClipError('BUSY', `the container id ${id} is in use`, {
    cause,
    hint: `clipctl umount --cid ${id} takes it down; or give another id`,
  });
}

/** Claims an id. @throws ClipError BUSY when it is in use */
export function claimContainer(root: string, state: ContainerState): void {
  const { bundle } = containerPaths(root, state.id);
  checkOwnDirectory(root);
  try {
    mkdirSync(bundle, { mode: 0o700 });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== 'EEXIST') throw new ClipError('SYSTEM', `cannot make ${bundle}: ${code}`, { cause });
    throw inUse(state.id, cause);
  }
  saveContainer(root, state);
}

/** By rename: a crash leaves the old state or the new one. */
export function saveContainer(root: string, state: ContainerState): void {
  const path = join(root, state.id, STATE_FILE);
  writeFileSync(`${path}.new`, `${JSON.stringify(state)}\n`, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** null: there is no container of this id. A half-made one without a state file has the least that can be known of it. */
export function loadContainer(root: string, cacheDir: string, id: string): ContainerState | null {
  checkContainerId(id);
  const { bundle } = containerPaths(root, id);
  if (!existsSync(bundle)) return null;
  checkOwnDirectory(bundle);
  const least: ContainerState = {
    format: 1,
    id,
    reference: '',
    archivePath: '',
    plane: 'mount',
    rootfs: join(bundle, 'rootfs'),
    image: join(bundle, 'image'),
    overlay: null,
    writable: writableDirectory(root, cacheDir, id),
    keepWritable: false,
    runtime: null,
    network: null,
    createdAt: 0,
  };
  let text: string;
  try {
    text = readFileSync(join(bundle, STATE_FILE), 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return least;
    throw cause;
  }
  let state: Partial<ContainerState>;
  try {
    state = JSON.parse(text) as Partial<ContainerState>;
  } catch {
    return least; // a crash of the machine cut it
  }
  if (state?.format === 1) return { ...least, ...state, id };
  throw new ClipError('UNSUPPORTED', `${bundle}: a container of format ${String(state?.format)}, 1 expected`, {
    hint: 'take it down with the clip that made it',
  });
}

/** The network that was made with a container, by its bundle; null: none, or the bundle is not of a container of ours. */
export function networkOf(bundle: string): NetworkState | null {
  try {
    return (JSON.parse(readFileSync(join(bundle, STATE_FILE), 'utf8')) as ContainerState).network ?? null;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/** The ids of all containers of a root. */
export function listContainers(root: string): string[] {
  try {
    return readdirSync(root, { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && ID.test(entry.name) && !RESERVED.test(entry.name))
      .map((entry) => entry.name)
      .sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** Makes the directories that hold writable layers. */
export function makeWritableParent(path: string): void {
  ownDirectory(join(path, '..', '..'));
  ownDirectory(join(path, '..'));
}
