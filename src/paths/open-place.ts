import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readlinkSync,
  type Stats,
  statSync,
} from 'node:fs';
import { ClipError } from '../bytes/index.js';

/** linux/fcntl.h; Node has no name for it. The same on x86-64, arm64 and riscv64. */
const O_PATH = 0o10000000;
/** path_resolution(7): as many symbolic links as the kernel follows. */
const MAX_LINKS = 40;
const STICKY = 0o1000;
const OTHERS_WRITE = 0o002;

/** A directory that was reached by its path, and is reached by its descriptor from now on. */
export interface OpenPlace {
  /** Opened with O_PATH: it holds the directory, and reads nothing from its file system. */
  readonly fd: number;
  /** Absolute, without symbolic links, as it was at the time. */
  readonly path: string;
}

/** The same, and the directory that it was found in. */
export interface OpenPlaceInParent extends OpenPlace {
  readonly parent: number;
}

/**
 * A path that leads to an open descriptor, or below it: how openat(2) is said with Node's functions. The kernel jumps to the open file
 * itself; names above it are not looked up again.
 */
export function descriptorPath(fd: number, name?: string): string {
  return name === undefined ? `/proc/self/fd/${fd}` : `/proc/self/fd/${fd}/${name}`;
}

/**
 * Opens a directory relative to another, following no link. Asks no file system that is mounted there.
 * @param make make it, for this user alone, when it is not there
 */
export function openComponent(directory: number, name: string, make: boolean): number {
  const path = descriptorPath(directory, name);
  const open = (): number => openSync(path, O_PATH | constants.O_NOFOLLOW | constants.O_DIRECTORY);
  try {
    return open();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || !make) throw error;
  }
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    // Another process was quicker.
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  return open();
}

/**
 * Whose directories and links are followed: root's, this user's, and those of the owner of "/", which in a user namespace without
 * a mapped root is the overflow user.
 */
export function trustedUsers(): ReadonlySet<number> {
  return new Set([0, process.geteuid?.() ?? 0, statSync('/').uid]);
}

/** The target of a symbolic link; null when the name is none. */
function linkTarget(directory: number, name: string): string | null {
  try {
    return readlinkSync(descriptorPath(directory, name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EINVAL') return null;
    throw error;
  }
}

/**
 * Whether only trusted users can have made this link, or can replace it. In a directory that every user may write to
 * (/tmp) the sticky bit keeps others from removing a link that is not theirs.
 */
function isTrustedLink(parent: Stats, link: Stats): boolean {
  const trusted = trustedUsers();
  const othersRename = (parent.mode & OTHERS_WRITE) !== 0 && (parent.mode & STICKY) === 0;
  return trusted.has(parent.uid) && trusted.has(link.uid) && !othersRename;
}

/**
 * Opens the directory at an absolute path, one component after the other, each relative to the one before. A symbolic link is
 * followed only where no other user controls it: a user who swaps a directory for a link while root resolves a path below it
 * leads root nowhere.
 *
 * @param options.make make missing directories, for this user alone
 * @throws ClipError PERMISSION for another user's link; NOT_FOUND for one that leads in a circle; Node's error (ENOENT, ENOTDIR, EACCES …)
 */
export function openPlace(path: string, options: { readonly make?: boolean } = {}): OpenPlace {
  const { parent, ...place } = walk(path, options.make ?? false);
  closeSync(parent);
  return place;
}

/** As openPlace; both descriptors are the caller's. The parent of "/" is "/". */
export function openPlaceInParent(path: string): OpenPlaceInParent {
  return walk(path, false);
}

function walk(given: string, make: boolean): OpenPlaceInParent {
  if (!given.startsWith('/') || given.includes('\0')) throw new RangeError(`not an absolute path: ${given}`);
  const waiting = given.split('/').reverse();
  /** Descriptors and names from "/" down: ".." in a link goes back by one. */
  const open: { readonly fd: number; readonly name: string }[] = [
    { fd: openSync('/', O_PATH | constants.O_DIRECTORY), name: '' },
  ];
  const pop = (): void => closeSync(open.pop()!.fd);
  let links = 0;
  try {
    while (waiting.length > 0) {
      const name = waiting.pop()!;
      const parent = open.at(-1)!.fd;
      if (name === '' || name === '.') continue;
      if (name === '..') {
        if (open.length > 1) pop();
        continue;
      }
      const fd = tryOpen(parent, name, make);
      if (fd !== null) {
        open.push({ fd, name });
        continue;
      }
      const target = linkTarget(parent, name);
      const shown = `${open.map((entry) => entry.name).join('/')}/${name}`;
      if (target === null) throw Object.assign(new Error(`${shown}: ENOTDIR`), { code: 'ENOTDIR' });
      if (!isTrustedLink(fstatSync(parent), lstatSync(descriptorPath(parent, name)))) {
        throw new ClipError(
          'PERMISSION',
          `${given} leads through ${shown}, a symbolic link that another user controls`,
          {
            hint: 'give the path without symbolic links',
          },
        );
      }
      if (++links > MAX_LINKS) {
        throw new ClipError('NOT_FOUND', `${given} leads through a circle of symbolic links`, {
          hint: 'give a directory',
        });
      }
      if (target.startsWith('/')) while (open.length > 1) pop();
      waiting.push(...target.split('/').reverse());
    }
    const path = open.map((entry) => entry.name).join('/');
    const { fd } = open.pop()!;
    const parent = open.pop()?.fd ?? openSync('/', O_PATH | constants.O_DIRECTORY);
    return { fd, parent, path: path === '' ? '/' : path };
  } finally {
    while (open.length > 0) pop();
  }
}

/** A descriptor; null when the name is not a directory (a link, a file). */
function tryOpen(parent: number, name: string, make: boolean): number | null {
  try {
    return openComponent(parent, name, make);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOTDIR' || code === 'ELOOP') return null;
    throw error;
  }
}
