import { lstatSync, realpathSync, type Stats } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import { trustedUsers } from './open-place.js';

const STICKY = 0o1000;
const GROUP_WRITE = 0o020;
const OTHERS_WRITE = 0o002;

/** A group that has only this user in it (umask 002), or root's, may write: no other user gains the right by that. */
function othersMayRename(stat: Stats): boolean {
  if ((stat.mode & STICKY) !== 0) return false;
  if ((stat.mode & OTHERS_WRITE) !== 0) return true;
  return (stat.mode & GROUP_WRITE) !== 0 && stat.gid !== 0 && stat.gid !== process.getegid?.();
}

/**
 * The real path of a directory that is used by its name again and again, also by the kernel and by other programs. No directory on
 * the way is another user's, so no other user can put a link there later.
 * @throws ClipError PERMISSION naming the directory that others can change; Node's error (ENOENT …)
 */
export function stablePath(given: string): string {
  const path = realpathSync(given);
  const trusted = trustedUsers();
  // From the top: what is below a directory that others cannot change stays as it is.
  const names = path.split('/').filter((name) => name !== '');
  for (let i = 0; i <= names.length; i++) {
    const at = `/${names.slice(0, i).join('/')}`;
    const stat = lstatSync(at);
    if (stat.isDirectory() && trusted.has(stat.uid) && !othersMayRename(stat)) continue;
    throw new ClipError('PERMISSION', `other users may put something else in the place of ${given}: ${at} is theirs`, {
      hint: 'give a directory of your own, below directories that only you or root may write to',
    });
  }
  return path;
}
