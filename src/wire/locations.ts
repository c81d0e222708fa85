import { closeSync, readlinkSync, realpathSync, statfsSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { missingArchive, OwnDirectory, openPlace } from '../paths/index.js';
import { KERNEL_FS_MAGIC } from './paths.js';
import { foreignParts } from './place-name.js';

const isRoot = (): boolean => process.getuid?.() === 0;

/** Where clipd keeps its socket and state: /run/clip, or $XDG_RUNTIME_DIR/clip for a user. */
export function defaultRoot(env: NodeJS.ProcessEnv = process.env): string {
  if (isRoot()) return '/run/clip';
  const runtime = env.XDG_RUNTIME_DIR;
  if (runtime) return join(runtime, 'clip');
  throw new ClipError('USAGE', 'XDG_RUNTIME_DIR is not set, so there is no place for the socket of clipd', {
    hint: 'log in through systemd, set it, or give --root DIR',
  });
}

/** A library's engine has a root of its own, in $XDG_RUNTIME_DIR or the directory for temporary files. */
export const PRIVATE_ROOT_PREFIX = 'clip-lib-';

/** Where spans are cached: /var/cache/clip, or $XDG_CACHE_HOME/clip for a user. */
export function defaultCacheDir(env: NodeJS.ProcessEnv = process.env): string {
  if (isRoot()) return '/var/cache/clip';
  return join(env.XDG_CACHE_HOME || join(env.HOME || homedir(), '.cache'), 'clip');
}

/** Makes a directory of this user's own, if need be. @throws ClipError when it is not this user's alone */
export function makeDirectory(path: string): void {
  OwnDirectory.open(path, { make: true }).close();
}

/** A directory that may not exist yet, as one absolute path for all its names. @throws ClipError PERMISSION */
export function resolveDirectory(path: string): string {
  const directory = OwnDirectory.open(resolve(path), { make: true });
  directory.close();
  return directory.path;
}

/** Null where there is no directory, or none that can be reached. @throws ClipError for another user's link */
function tryRealPath(path: string): string | null {
  try {
    const place = openPlace(path);
    closeSync(place.fd);
    return place.path;
  } catch (error) {
    if (error instanceof ClipError) throw error;
    return null;
  }
}

/**
 * The real path of a place that may be mounted, without asking the file system mounted there: one that is dead or slow
 * must not keep us from unmounting it.
 * @throws ClipError when the path leads through a link that another user controls
 */
export function resolvePlace(path: string): string {
  // An unset variable in a script, most likely, and not meant to be the current directory.
  if (path === '') throw new ClipError('USAGE', 'the path of a directory is empty', { hint: 'give a directory' });
  // As `clipctl ps` names a place of another mount namespace.
  if (foreignParts(path) !== null) return path;
  const place = resolve(path);
  const real = tryRealPath(place);
  if (real !== null) return real;
  const parent = tryRealPath(dirname(place));
  return parent === null ? place : join(parent, basename(place));
}

/** A place to mount on. */
export interface MountPoint {
  readonly place: string;
  /** A FUSE mount whose server has gone is in the way. */
  readonly dead: boolean;
  /** The kernel's own mount of an image may be in the way, which answers even if its clipd has gone. */
  readonly erofs: boolean;
}

/** @throws ClipError when there is no directory */
export function resolveMountPoint(path: string): MountPoint {
  const place = resolvePlace(path);
  let isDirectory: boolean;
  let erofs: boolean;
  try {
    isDirectory = statSync(place).isDirectory();
    // The kernel may still know the attributes of a dead mount's root; of its file system it has to ask.
    erofs = statfsSync(place).type === KERNEL_FS_MAGIC;
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') {
      throw new ClipError('NOT_FOUND', `mount point ${path} does not exist`, { cause, hint: `mkdir -p ${path}` });
    }
    if (code === 'ENOTCONN' || code === 'ECONNABORTED') return { place, dead: true, erofs: false };
    throw new ClipError('PERMISSION', `mount point ${path}: ${code}`, {
      cause,
      hint: 'give a directory that you may use',
    });
  }
  if (!isDirectory) {
    const hint = 'give a directory: the file or image comes first, then the place to mount at';
    throw new ClipError('NOT_FOUND', `mount point ${path} is not a directory`, { hint });
  }
  return { place, dead: false, erofs };
}

/** @throws ClipError when there is no such file */
export function resolveArchive(path: string): string {
  try {
    return realpathSync(path);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') throw missingArchive(path, cause);
    throw new ClipError('PERMISSION', `archive ${path}: ${code}`, { cause });
  }
}

/** As linux/'s mountNamespace, which a client does not load. */
export function ownMountNamespace(): string {
  return readlinkSync('/proc/self/ns/mnt');
}
