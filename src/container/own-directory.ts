import { closeSync, constants, fstatSync, mkdirSync, openSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';

/** Group and others may not write. */
const WRITABLE_BY_OTHERS = 0o022;

/**
 * Makes a directory of this user's own, if it is missing. One that is there is checked: a directory that others may write to could
 * be swapped for a link under our hands.
 * @throws ClipError PERMISSION when it is another user's, or others may write to it; SYSTEM otherwise
 */
export function ownDirectory(path: string, mode = 0o700): void {
  try {
    mkdirSync(path, { mode });
    return;
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== 'EEXIST') {
      const kind = code === 'EACCES' || code === 'EPERM' || code === 'EROFS' ? 'PERMISSION' : 'SYSTEM';
      throw new ClipError(kind, `cannot make ${path}: ${code}`, {
        cause,
        hint: 'give places that you may write to: --root DIR --cache-dir DIR',
      });
    }
  }
  checkOwnDirectory(path);
}

/** @throws ClipError PERMISSION as `ownDirectory` does */
export function checkOwnDirectory(path: string): void {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new ClipError('PERMISSION', `${path} is not a directory of this user: ${code}`, {
      cause,
      hint: 'remove it, or give another place',
    });
  }
  try {
    const { uid, mode } = fstatSync(fd);
    if (uid === process.getuid?.() && (mode & WRITABLE_BY_OTHERS) === 0) return;
    throw new ClipError('PERMISSION', `${path} belongs to another user, or others may write to it`, {
      hint: `chown and chmod go-w it, or give another place`,
    });
  } finally {
    closeSync(fd);
  }
}
