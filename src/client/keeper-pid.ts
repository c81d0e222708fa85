import { readdirSync, readlinkSync } from 'node:fs';
import { OwnDirectory } from '../paths/index.js';
import { LOCK_FILE } from '../wire/index.js';

/**
 * The process id of the keeper at `root`, without asking a server. Null: there is none, or it is in another process namespace. The lock file
 * says which one it is, and the process has that file open: an id that is old or of another namespace names no other program.
 */
export function keeperPidOf(root: string): number | null {
  const directory = OwnDirectory.open(root, { orRoots: true });
  try {
    const pid = Number(directory.read(LOCK_FILE));
    return Number.isInteger(pid) && pid > 1 && holds(pid, `${directory.path}/${LOCK_FILE}`) ? pid : null;
  } catch {
    return null;
  } finally {
    directory.close();
  }
}

/** By the links' texts: a look at what they lead to would wait, for a keeper has mounts open that no server answers for. */
function holds(pid: number, path: string): boolean {
  const descriptors = `/proc/${pid}/fd`;
  return readdirSync(descriptors).some((name) => {
    try {
      return readlinkSync(`${descriptors}/${name}`) === path;
    } catch {
      return false; // closed meanwhile
    }
  });
}
