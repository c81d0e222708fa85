import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { ClipError } from '../bytes/index.js';
import { readMountInfo, unmount } from '../linux/index.js';
import { CLIP_FS_TYPE, mountAt } from '../mount/index.js';

/**
 * Unmounts a clip mount whose clipd has gone (every access to it says ENOTCONN), or that another root's clipd forgot.
 * @throws ClipError NOT_FOUND when no clip mount is there
 */
export async function unmountOrphan(mountPoint: string): Promise<void> {
  const mount = mountAt(readMountInfo(), mountPoint);
  if (mount === undefined)
    throw new ClipError('NOT_FOUND', `${mountPoint} is not mounted`, { hint: 'clipctl ps lists' });
  if (mount.type !== CLIP_FS_TYPE) {
    throw new ClipError('NOT_FOUND', `${mountPoint} is not a clip mount but ${mount.type}`, { hint: 'umount(8) can' });
  }
  try {
    if (process.getuid?.() === 0) unmount(mountPoint, 'lazy');
    else await promisify(execFile)('fusermount3', ['-u', '-z', '--', mountPoint]);
  } catch (cause) {
    throw new ClipError('PERMISSION', `cannot unmount ${mountPoint}: ${(cause as Error).message}`, { cause });
  }
}
