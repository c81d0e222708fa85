import { closeSync, constants, fstatSync, openSync, readlinkSync, statSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import {
  errnoName,
  flags,
  type MountInfo,
  mountIdOf,
  mountNamespace,
  mountNamespaceName,
  openInRoot,
  peerCredentials,
  peerProcess,
  processLives,
  readMountInfo,
} from '../linux/index.js';
import { foreignName, isClipMount } from '../wire/index.js';

/** The mount namespace of the process at the other end of a connection; null when it cannot be told, or is ours. */
export function foreignNamespaceOf(socket: number): string | null {
  try {
    const namespace = mountNamespace(peerCredentials(socket).pid);
    return namespace === mountNamespace() ? null : namespace;
  } catch {
    return null; // of another process id namespace, or gone
  }
}

/**
 * A process of another mount namespace, and what it sees: its root and its namespace stay open while a request of it is answered. Paths are
 * looked up below its own root, without symbolic links: the client has resolved them, and nothing in its root leads out of it.
 */
export class ForeignCaller {
  readonly name: string;
  readonly namespace: number;
  readonly #root: number;
  readonly #pid: number;

  /** @param socket its connection. @throws ClipError CONFLICT */
  constructor(socket: number) {
    const open: number[] = [];
    try {
      const process = peerProcess(socket);
      open.push(process);
      this.#pid = peerCredentials(socket).pid;
      this.namespace = openSync(`/proc/${this.#pid}/ns/mnt`, 'r');
      open.push(this.namespace);
      this.#root = openSync(`/proc/${this.#pid}/root`, flags.O_PATH | constants.O_DIRECTORY);
      open.push(this.#root);
      const root = readlinkSync(`/proc/${this.#pid}/root`);
      // Its number is its own until it has ended and been waited for.
      if (!processLives(process)) throw new Error('it has ended');
      if (root !== '/') throw new Error(`its root is ${root} of its mount namespace (chroot)`);
      this.name = mountNamespaceName(this.namespace);
      closeSync(process);
    } catch (cause) {
      for (const fd of open) closeSync(fd);
      throw refusal(`the caller cannot be examined: ${cause instanceof Error ? cause.message : String(cause)}`, {
        cause,
      });
    }
  }

  /** As clipd says a path of this caller. */
  say(path: string): string {
    return foreignName(this.name, path);
  }

  /** @throws ClipError */
  openDirectory(path: string): number {
    return this.#open('mount point', path, flags.O_PATH | constants.O_DIRECTORY);
  }

  /** @throws ClipError */
  openFile(path: string): number {
    const fd = this.#open('archive', path, flags.O_NONBLOCK | constants.O_NOCTTY);
    const refuse = (code: 'BAD_FORMAT' | 'CONFLICT', what: string, hint: string): never => {
      closeSync(fd);
      throw new ClipError(code, `${this.say(path)} is ${what}`, { hint });
    };
    if (!fstatSync(fd).isFile()) refuse('BAD_FORMAT', 'not a file', 'give a .clip archive');
    // Reading it would wait for us.
    if (this.clipMountOf(fd) !== null) refuse('CONFLICT', 'inside a clip mount', 'copy it out first');
    return fd;
  }

  #open(what: string, path: string, how: number): number {
    const fd = openInRoot(this.#root, path, how, flags.RESOLVE_NO_SYMLINKS);
    if (fd >= 0) return fd;
    const code = errnoName(-fd);
    throw new ClipError(code === 'ENOENT' ? 'NOT_FOUND' : 'PERMISSION', `${what} ${this.say(path)}: ${code}`, {
      hint: 'it must be there, as an absolute path without symbolic links',
    });
  }

  /** The clip mount that an open file of this caller lies on. */
  clipMountOf(fd: number): MountInfo | null {
    return clipMountAmong(readMountInfo(this.#pid), fd);
  }

  /**
   * An image layout is read by clipd, where clipd is.
   * @throws ClipError CONFLICT unless the path is the same file or directory for both
   */
  requireShared(path: string): void {
    const fd = openInRoot(this.#root, path, flags.O_PATH, flags.RESOLVE_NO_SYMLINKS);
    const theirs = fd < 0 ? null : fstatSync(fd);
    if (fd >= 0) closeSync(fd);
    const ours = statSync(path, { throwIfNoEntry: false });
    if (theirs !== null && ours?.dev === theirs.dev && ours.ino === theirs.ino) return;
    throw refusal(`does not have ${path}, where the layers are`, {
      hint: `give the container that directory at the same path, or take the image from a registry`,
    });
  }

  close(): void {
    closeSync(this.namespace);
    closeSync(this.#root);
  }
}

export function clipMountAmong(mounts: readonly MountInfo[], fd: number): MountInfo | null {
  const id = mountIdOf(fd);
  return mounts.find((mount) => mount.id === id && isClipMount(mount)) ?? null;
}

/** A command in clipd's own mount namespace. */
export function enterOurs(command: string): string {
  return `nsenter --mount=/proc/${process.pid}/ns/mnt clipctl ${command}`;
}

/** Why clipd does not mount, or unmount, where the caller is. */
export function refusal(reason: string, { hint, cause }: { hint?: string; cause?: unknown } = {}): ClipError {
  return new ClipError('CONFLICT', `clipd is in another mount namespace, and ${reason}`, {
    cause,
    hint: hint ?? `mount on the host, below a directory that the container has with rslave, or ${enterOurs('mount …')}`,
  });
}
