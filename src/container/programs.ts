import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';

/** Where programs of the system are, whatever PATH this process was given. */
const SYSTEM_DIRECTORIES = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/local/bin', '/usr/bin', '/bin'];

/** The path of a program of this machine; null when there is none. A name with a slash is taken as it is. */
export function findProgram(name: string): string | null {
  const named = name.includes('/');
  const directories = named ? [''] : [...(process.env.PATH ?? '').split(':'), ...SYSTEM_DIRECTORIES];
  for (const directory of directories) {
    // An empty part of PATH is the current directory: nothing of ours is looked for there.
    if (!named && !directory.startsWith('/')) continue;
    const program = named ? name : join(directory, name);
    try {
      accessSync(program, constants.X_OK);
      return program;
    } catch {
      // the next directory
    }
  }
  return null;
}
