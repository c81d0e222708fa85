import { execFile } from 'node:child_process';
import { rmSync } from 'node:fs';
import { basename } from 'node:path';
import { promisify } from 'node:util';
import { ClipError } from '../bytes/index.js';
import { readMountInfo, unmount } from '../linux/index.js';
import {
  CLIP_FS_TYPE,
  forgetPlace,
  mountAt,
  PRIVATE_ROOT_PREFIX,
  parseSource,
  resolveMountPoint,
} from '../wire/index.js';
import { ClipdClient, NotRunningError } from './clipd-client.js';

async function remove(mountPoint: string): Promise<void> {
  try {
    if (process.getuid?.() === 0) unmount(mountPoint, 'lazy');
    else await promisify(execFile)('fusermount3', ['-u', '-z', '--', mountPoint]);
  } catch (cause) {
    throw new ClipError('PERMISSION', `cannot unmount ${mountPoint}: ${(cause as Error).message}`, { cause });
  }
}

/**
 * Unmounts a clip mount whose clipd has gone (every access to it says ENOTCONN), or that another root's clipd forgot, and
 * takes it off the list from which that clipd's next run would bring it back.
 * @throws ClipError NOT_FOUND when no clip mount is there
 */
export async function unmountOrphan(mountPoint: string): Promise<void> {
  const mount = mountAt(readMountInfo(), mountPoint);
  if (mount === undefined)
    throw new ClipError('NOT_FOUND', `${mountPoint} is not mounted`, { hint: 'clipctl ps lists the mounts' });
  if (mount.type !== CLIP_FS_TYPE) {
    throw new ClipError('NOT_FOUND', `${mountPoint} is not a clip mount but ${mount.type}`, { hint: 'use umount(8)' });
  }
  await remove(mountPoint);
  const owner = parseSource(mount.source);
  if (owner === null) return;
  forgetPlace(owner.root, mountPoint);
  // The connection itself, once nothing else shows it.
  const left = readMountInfo().filter((other) => other.type === CLIP_FS_TYPE && other.source === mount.source);
  const [only] = left;
  if (left.length === 1 && only !== undefined && only.mountPoint.startsWith(`${owner.root}/`))
    await remove(only.mountPoint);
}

/** Dead mounts may lie one upon the other, where something mounted over one. */
const MAX_STACKED = 16;

/**
 * Takes dead clip mounts away from a place that is to be mounted. Those of `root` stay: its next clipd mounts them again,
 * with the others that it finds.
 * @throws ClipError BUSY when what is there is not ours to remove
 */
export async function clearDeadMounts(place: string, root: string | null): Promise<void> {
  for (let i = 0; i < MAX_STACKED && resolveMountPoint(place).dead; i++) {
    const mount = mountAt(readMountInfo(), place);
    const owner = mount?.type === CLIP_FS_TYPE ? parseSource(mount.source) : null;
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
    // What a library's engine leaves when it is killed: nobody will ever start a clipd there again.
    if (basename(owner.root).startsWith(PRIVATE_ROOT_PREFIX)) rmSync(owner.root, { recursive: true, force: true });
  }
}

async function answers(root: string): Promise<boolean> {
  try {
    await new ClipdClient(root).health();
    return true;
  } catch (error) {
    if (error instanceof NotRunningError) return false;
    throw error;
  }
}
