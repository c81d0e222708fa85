import { accessSync, constants } from 'node:fs';
import path from 'node:path';
import { ClipError } from '../bytes/index.js';

/** chroot(8) and mount(8) are here, and an ordinary user's PATH leaves these directories out. */
const SYSTEM_DIRECTORIES = ['/usr/sbin', '/sbin'];

/**
 * Path of a program of this machine. spawn() would look it up in the child's PATH, which for a child inside an image is the
 * image's.
 * @throws ClipError SYSTEM if this machine has no such program
 */
export function hostProgram(name: string): string {
  const directories = [
    ...(process.env.PATH ?? '').split(':').filter((directory) => directory !== ''),
    ...SYSTEM_DIRECTORIES,
  ];
  for (const directory of directories) {
    const program = path.join(directory, name);
    try {
      accessSync(program, constants.X_OK);
      return program;
    } catch {
      // the next one
    }
  }
  throw new ClipError('SYSTEM', `this machine has no ${name}`, { hint: 'install it, or add its directory to PATH' });
}
