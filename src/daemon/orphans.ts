import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { ClipError } from '../bytes/index.js';
import { readMountInfo, unmount } from '../linux/index.js';
import { CLIP_FS_TYPE, forgetPlace, mountAt, parseSource } from '../mount/index.js';

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
    throw new ClipError('NOT_FOUND', `${mountPoint} is not mounted`, { hint: 'clipctl ps lists' });
  if (mount.type !== CLIP_FS_TYPE) {
    throw new ClipError('NOT_FOUND', `${mountPoint} is not a clip mount but ${mount.type}`, { hint: 'umount(8) can' });
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
