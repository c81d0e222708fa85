import { closeSync, constants, openSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import type { ConnectionId } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import {
  detachMount,
  Errno,
  flags,
  type MountInfo,
  mountIdOf,
  readMountInfo,
  SystemCallError,
  unmount,
} from '../linux/index.js';
import { descriptorPath, openPlace } from '../paths/index.js';

const DIRECTORY = flags.O_PATH | constants.O_NOFOLLOW | constants.O_DIRECTORY;

/**
 * A mount that this keeper made, or found to be its own. It is known by its id in mountinfo, and reached from the directory that it lies in,
 * which stays open: the kernel lets no process rename or remove a mount point, so the two stay together whatever becomes of the path above.
 */
export class HeldMount {
  readonly id: ConnectionId;
  /**
   * Device and source of its file system. The kernel gives the id of a mount that has gone to the next one, which may be another program's.
   * While the anchor is mounted the device is ours alone; sources differ between connections.
   */
  readonly #fileSystem: string;
  #gone = false;
  #parent: number;
  #name: string;

  private constructor(id: ConnectionId, fileSystem: string, parent: number, name: string) {
    this.id = id;
    this.#fileSystem = fileSystem;
    this.#parent = parent;
    this.#name = name;
  }

  /** @param parent the directory in which `name` was mounted on: an open descriptor, from now on this object's */
  static in(parent: number, name: string, id: ConnectionId): HeldMount {
    const mount = readMountInfo().find((one) => one.id === id);
    // One that has gone already is never found.
    return new HeldMount(id, mount === undefined ? '' : fileSystemOf(mount), parent, name);
  }

  /** One that mountinfo lists. @throws ClipError, Node's error when its path cannot be reached */
  static listed(mount: MountInfo): HeldMount {
    return new HeldMount(
      mount.id,
      fileSystemOf(mount),
      openPlace(dirname(mount.mountPoint)).fd,
      basename(mount.mountPoint),
    );
  }

  /** Null when it is mounted no more. */
  find(mounts: readonly MountInfo[]): MountInfo | null {
    if (this.#gone) return null;
    return mounts.find((mount) => mount.id === this.id && fileSystemOf(mount) === this.#fileSystem) ?? null;
  }

  /** The root of the mount, open, if nothing covers it. Sends nothing to the mount's server. */
  #openTop(): number | null {
    let fd: number;
    try {
      fd = openSync(descriptorPath(this.#parent, this.#name), DIRECTORY);
    } catch {
      return null;
    }
    if (mountIdOf(fd) === this.id) return fd;
    closeSync(fd);
    return null;
  }

  /** Somebody may have moved it (mount --move): mountinfo says where to. */
  #follow(mount: MountInfo): void {
    const moved = HeldMount.listed(mount);
    closeSync(this.#parent);
    this.#parent = moved.#parent;
    this.#name = moved.#name;
  }

  /**
   * Makes sure that it is mounted and on top.
   * @returns where it is, and its root, open: the caller closes it
   * @throws ClipError CONFLICT when another mount covers it; SystemCallError EINVAL when it is not mounted
   */
  top(): { readonly path: string; readonly fd: number } {
    const mount = this.find(readMountInfo());
    if (mount === null) throw new SystemCallError(`unmount ${this.#name}`, Errno.EINVAL);
    let fd = this.#openTop();
    if (fd === null) {
      this.#follow(mount);
      fd = this.#openTop();
    }
    if (fd === null) throw this.#covered(mount);
    return { path: mount.mountPoint, fd };
  }

  /**
   * Unmounts this mount and no other.
   * @param how 'lazy': out of the tree now; its users keep it
   * @throws as `top`, and SystemCallError EBUSY
   */
  unmount(how: 'normal' | 'lazy'): void {
    const { path, fd } = this.top();
    try {
      if (how === 'lazy') detachMount(fd, path);
    } finally {
      closeSync(fd);
    }
    // Not by the descriptor: an open one keeps the mount busy.
    if (how === 'normal') unmount(descriptorPath(this.#parent, this.#name));
    // A mount that has come to cover ours since `top` was met instead.
    const left = this.find(readMountInfo());
    if (left !== null) throw this.#covered(left);
    this.#gone = true;
  }

  /** fusermount3 has unmounted it. */
  unmounted(): void {
    this.#gone = true;
  }

  #covered(mount: MountInfo): ClipError {
    const above = readMountInfo().findLast((other) => other.mountPoint === mount.mountPoint);
    const by = above === undefined ? '' : ` (${above.type}, ${above.source})`;
    return new ClipError('CONFLICT', `${mount.mountPoint} is covered by another mount${by}`, {
      hint: `umount ${mount.mountPoint} removes that one; then try again`,
    });
  }

  /** Lets go of the directory. The mount stays. */
  close(): void {
    closeSync(this.#parent);
  }
}

function fileSystemOf({ device, source }: MountInfo): string {
  return `${device} ${source}`;
}
