import { ClipError } from '../bytes/index.js';
import { type OpenPlaceInParent, openPlaceInParent, openRegularFile } from '../paths/index.js';

/** @throws ClipError */
export function openMountPoint(path: string): OpenPlaceInParent {
  try {
    return openPlaceInParent(path);
  } catch (cause) {
    if (cause instanceof ClipError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') {
      throw new ClipError('NOT_FOUND', `mount point ${path} does not exist`, { cause, hint: `mkdir -p ${path}` });
    }
    const what = code === 'ENOTDIR' ? 'is not a directory' : `cannot be opened: ${code}`;
    throw new ClipError('PERMISSION', `mount point ${path} ${what}`, { cause, hint: 'give a directory' });
  }
}

/** @throws ClipError */
export function openArchiveFd(path: string): number {
  try {
    return openRegularFile(path);
  } catch (cause) {
    if (cause instanceof ClipError) throw cause;
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') {
      throw new ClipError('NOT_FOUND', `archive ${path} does not exist`, { cause, hint: 'clipctl index makes one' });
    }
    throw new ClipError('PERMISSION', `archive ${path} cannot be opened: ${code}`, { cause });
  }
}

/** Of an open file: the one at its own path may have been replaced or removed since. */
export function descriptorPath(fd: number): string {
  return `/proc/self/fd/${fd}`;
}
