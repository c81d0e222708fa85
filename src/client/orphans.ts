import { execFile } from 'node:child_process';
import { closeSync, openSync, rmSync, statfsSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { promisify } from 'node:util';
import { ClipError } from '../bytes/index.js';
import { detachMount, flags, type MountInfo, mountIdOf, readMountInfo } from '../linux/index.js';
import { descriptorPath, OwnDirectory, openPlace } from '../paths/index.js';
import {
  forgetPlace,
  kernelAnchor,
  mountAt,
  ownClipMount,
  PRIVATE_ROOT_PREFIX,
  resolveMountPoint,
} from '../wire/index.js';
import { ClipdClient, NotRunningError } from './clipd-client.js';

/** Takes one mount, and no other, out of the tree. */
async function remove(mount: MountInfo): Promise<void> {
  const { mountPoint } = mount;
  try {
    if (process.getuid?.() === 0) detach(mount);
    else await promisify(execFile)('fusermount3', ['-u', '-z', '--', mountPoint]);
  } catch (cause) {
    throw new ClipError('PERMISSION', `cannot unmount ${mountPoint}: ${(cause as Error).message}`, { cause });
  }
}

function detach({ id, mountPoint }: MountInfo): void {
  const parent = openPlace(dirname(mountPoint));
  try {
    const fd = openSync(descriptorPath(parent.fd, basename(mountPoint)), flags.O_PATH);
    try {
      if (mountIdOf(fd) !== id) throw new Error('it has just been moved, or another mount covers it');
      detachMount(fd, mountPoint);
    } finally {
      closeSync(fd);
    }
  } finally {
    closeSync(parent.fd);
  }
}

/** The root of a clipd that has gone, if it is a directory that only this user could have written to. */
function openRootOf(path: string): OwnDirectory | null {
  try {
    return OwnDirectory.open(path);
  } catch {
    return null;
  }
}

/**
 * Unmounts a clip mount whose clipd has gone (every access to it says ENOTCONN), or that another root's clipd forgot, and
 * takes it off the list from which that clipd's next run would bring it back.
 * @throws ClipError NOT_FOUND when no clip mount of this user is there
 */
export async function unmountOrphan(mountPoint: string): Promise<void> {
  const mount = mountAt(readMountInfo(), mountPoint);
  if (mount === undefined)
    throw new ClipError('NOT_FOUND', `${mountPoint} is not mounted`, { hint: 'clipctl ps lists the mounts' });
  const owner = ownClipMount(mount);
  if (owner === null) {
    throw new ClipError('NOT_FOUND', `${mountPoint} is not a clip mount of this user but ${mount.type}`, {
      hint: 'use umount(8)',
    });
  }
  await remove(mount);
  const root = openRootOf(owner.root);
  if (root === null) return;
  try {
    forgetPlace(root, mountPoint);
  } finally {
    root.close();
  }
  // The connection itself, once nothing else shows it. The kernel's own mount holds its files, so that one goes first.
  const left = readMountInfo().filter((other) => {
    const of = ownClipMount(other);
    return of?.root === owner.root && of.id === owner.id;
  });
  if (!left.every(({ mountPoint }) => mountPoint.startsWith(`${owner.root}/`))) return;
  for (const one of left.reverse()) await remove(one);
}

/** Whether the clipd of the mount on a place has gone. The kernel's own mounts answer without it, as far as they have bytes. */
function isDead(place: string): boolean {
  const { dead, erofs } = resolveMountPoint(place);
  if (!erofs) return dead;
  const owner = ownClipMount(mountAt(readMountInfo(), place));
  if (owner === null) return false;
  try {
    statfsSync(kernelAnchor(owner));
    return false;
  } catch {
    return true;
  }
}

/** Dead mounts may lie one upon the other, where something mounted over one. */
const MAX_STACKED = 16;

/**
 * Takes dead clip mounts away from a place that is to be mounted. Those of `root` stay: its next clipd mounts them again,
 * with the others that it finds.
 * @throws ClipError BUSY when the mount there is not ours to remove
 */
export async function clearDeadMounts(place: string, root: string | null): Promise<void> {
  for (let i = 0; i < MAX_STACKED && isDead(place); i++) {
    const owner = ownClipMount(mountAt(readMountInfo(), place));
    if (owner === null) {
      throw new ClipError('BUSY', `mount point ${place} is a dead FUSE mount`, { hint: `umount -l ${place}` });
    }
    if (owner.root === root) return;
    if (await answers(owner.root)) {
      throw new ClipError('BUSY', `mount point ${place} is a dead mount of the clipd at ${owner.root}`, {
        hint: `clipctl umount --lazy --root ${owner.root} ${place}`,
      });
    }
    await unmountOrphan(place);
    // A library's engine that was killed leaves its root: no clipd will ever be started there again.
    if (basename(owner.root).startsWith(PRIVATE_ROOT_PREFIX)) removeRoot(owner.root);
  }
}

function removeRoot(path: string): void {
  const root = openRootOf(path);
  if (root === null) return;
  root.close();
  rmSync(path, { recursive: true, force: true });
}

/** A root that this user cannot trust has no clipd of this user. */
async function answers(root: string): Promise<boolean> {
  try {
    await new ClipdClient(root).health();
    return true;
  } catch (error) {
    if (error instanceof NotRunningError || (error instanceof ClipError && error.code === 'PERMISSION')) return false;
    throw error;
  }
}
