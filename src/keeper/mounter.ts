import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmdirSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import {
  bindMountAt,
  closeFd,
  flags,
  mountFuse,
  openFuseDevice,
  receiveDescriptors,
  setNonBlocking,
  socketPair,
  unmount,
} from '../linux/index.js';
import { logLine } from '../metrics/index.js';
import { ForeignMount } from './foreign-mount.js';
import type { HeldMount } from './held-mount.js';

/** Mounting as this user can: mount(2) for root, fusermount3 for others. All paths are absolute and resolved. */
export const rootless: boolean = process.getuid?.() !== 0;

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | null)?.code;
}

function openDevice(): number {
  try {
    return openFuseDevice();
  } catch (cause) {
    const code = codeOf(cause);
    if (code === 'EACCES' || code === 'EPERM') {
      throw new ClipError('PERMISSION', '/dev/fuse: permission denied', {
        cause,
        hint: 'it must be readable and writable for this user: chmod 666 /dev/fuse, or run as root',
      });
    }
    throw new ClipError('UNSUPPORTED', `/dev/fuse: ${code === 'ENOENT' ? 'no such device' : String(code)}`, {
      cause,
      hint: 'load the kernel module (modprobe fuse); in a container, pass the device in (--device /dev/fuse)',
    });
  }
}

/** Turns the kernel's refusal to mount at a place into what the user can do about it. */
function placeError(path: string, cause: unknown): ClipError {
  switch (codeOf(cause)) {
    case 'ENOENT':
      return new ClipError('NOT_FOUND', `mount point ${path} does not exist`, { cause, hint: `mkdir -p ${path}` });
    case 'ENOTDIR':
      return new ClipError('NOT_FOUND', `mount point ${path} is not a directory`, { cause, hint: 'give a directory' });
    case 'EBUSY':
      return new ClipError('BUSY', `mount point ${path} is busy`, {
        cause,
        hint: 'unmount the file system there, or give another directory',
      });
    case 'EPERM':
    case 'EACCES':
      return new ClipError('PERMISSION', `no permission to mount on ${path}`, {
        cause,
        hint: 'mounting needs CAP_SYS_ADMIN as root (containers drop it), or fusermount3 and a directory of your own',
      });
    case 'EINVAL':
    case 'ENODEV':
      return new ClipError('UNSUPPORTED', `cannot mount on ${path}: ${codeOf(cause)}`, {
        cause,
        hint: 'is /dev/fuse the real device, and does this kernel have FUSE (grep fuse /proc/filesystems)?',
      });
    default:
      return new ClipError('SYSTEM', `cannot mount on ${path}: ${codeOf(cause) ?? String(cause)}`, { cause });
  }
}

/** Opens a FUSE connection and mounts it at `target`, a directory. @returns its descriptor, non-blocking */
export async function connectFuse(target: string, source: string): Promise<number> {
  if (rootless) return connectByHelper(target, source);
  const fd = openDevice();
  try {
    mountFuse({ fd, target, source, subtype: 'clip' });
    return fd;
  } catch (error) {
    closeFd(fd);
    throw placeError(target, error);
  }
}

async function helperOutcome(child: ChildProcess): Promise<{ code: number | null; message: string }> {
  let message = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    message += text;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, message: message.trim().replaceAll('\n', '; ') };
}

function helperMissing(cause: unknown): ClipError {
  return new ClipError('UNSUPPORTED', 'fusermount3 cannot be run, and only root mounts without it', {
    cause,
    hint: 'install the package fuse3, or run as root',
  });
}

/** fusermount3, set-uid root, mounts and sends the descriptor over the socket that _FUSE_COMMFD names. */
async function connectByHelper(target: string, source: string): Promise<number> {
  // fusermount3 says little about what is wrong with the device or the place: look first.
  closeFd(openDevice());
  const [ours, theirs] = socketPair('stream');
  try {
    const options = ['ro', 'nosuid', 'nodev', 'default_permissions', 'subtype=clip', `fsname=${escapeOption(source)}`];
    const child = spawn('fusermount3', ['-o', options.join(','), '--', target], {
      stdio: ['ignore', 'ignore', 'pipe', theirs],
      env: { PATH: process.env.PATH, _FUSE_COMMFD: '3' },
    });
    const outcome = await helperOutcome(child).catch((cause) => {
      throw helperMissing(cause);
    });
    if (outcome.code !== 0) {
      throw new ClipError('PERMISSION', `no permission to mount on ${target}: ${outcome.message}`, {
        hint: 'the mount point must be an empty directory of your own',
      });
    }
    const fd = receiveDescriptors(ours, 32, false)?.fds[0];
    if (fd === undefined) throw new ClipError('SYSTEM', 'fusermount3 sent no descriptor');
    setNonBlocking(fd);
    return fd;
  } finally {
    closeFd(ours);
    closeFd(theirs);
  }
}

/** libfuse's option parser takes a backslash before a comma or backslash. */
function escapeOption(text: string): string {
  return text.replace(/[\\,]/g, '\\$&');
}

/**
 * Shows what is mounted at the anchor at a place, too.
 * @param place the place's directory, open
 * @param path for errors
 * @returns the mount's id
 */
export function bindPlace(
  anchor: string,
  place: number,
  path: string,
  { suid, dev }: { readonly suid: boolean; readonly dev: boolean },
): number {
  // The anchor is ro,nosuid,nodev, and a bind mount begins with the flags of its source.
  const wanted = flags.MS_RDONLY | (suid ? 0 : flags.MS_NOSUID) | (dev ? 0 : flags.MS_NODEV);
  try {
    return bindMountAt(anchor, place, path, suid || dev ? wanted : undefined);
  } catch (error) {
    throw placeError(path, error);
  }
}

/** @throws ClipError CONFLICT (covered), BUSY with fusermount3's words; the system call's error (`code` EBUSY, EINVAL …) */
export async function unmountHeld(held: HeldMount | ForeignMount, how: 'normal' | 'lazy'): Promise<void> {
  if (!rootless || held instanceof ForeignMount) {
    held.unmount(how);
    return;
  }
  const { path, fd } = held.top();
  closeFd(fd);
  // Without root there is no MNT_FORCE: lazy is the most there is.
  const child = spawn('fusermount3', ['-u', ...(how === 'normal' ? [] : ['-z']), '--', path], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const outcome = await helperOutcome(child).catch((cause) => {
    throw helperMissing(cause);
  });
  if (outcome.code !== 0) {
    const busy = /busy/i.test(outcome.message);
    throw new ClipError(busy ? 'BUSY' : 'SYSTEM', `fusermount3 -u ${path}: ${outcome.message}`);
  }
  held.unmounted();
}

/** At its end a place that is in use goes from the tree at least; what does not is left, and logged. */
export async function unmountQuietly(held: HeldMount | ForeignMount): Promise<void> {
  try {
    await unmountHeld(held, 'normal');
  } catch (error) {
    if (isNotMounted(error)) return;
    await unmountHeld(held, 'lazy').catch((error: unknown) => {
      logLine('keeper', 'warn', 'cannot unmount', { error: error instanceof Error ? error.message : String(error) });
    });
  }
}

/** Aborts what is under way at an anchor, where no other process can mount. It is unmounted too, unless it is in use. */
export function abortAnchor(path: string): void {
  if (rootless) return;
  try {
    unmount(path, 'force');
  } catch (error) {
    if (!isBusy(error)) throw error;
  }
}

export function isBusy(error: unknown): boolean {
  return codeOf(error) === 'EBUSY' || codeOf(error) === 'BUSY';
}

function isNotMounted(error: unknown): boolean {
  return codeOf(error) === 'EINVAL' || codeOf(error) === 'ENOENT';
}

export function removeAnchor(path: string): void {
  try {
    rmdirSync(path);
  } catch {
    // Still in use by a detached mount's user, or gone: an empty directory under our root, removed at the next start.
  }
}
