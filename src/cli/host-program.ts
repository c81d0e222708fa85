import { accessSync, constants } from 'node:fs';
import path from 'node:path';
import { ClipError } from '../bytes/index.js';

/** Where chroot(8) and mount(8) are, whoever's PATH it is. */
const SYSTEM_DIRECTORIES = ['/usr/sbin', '/sbin'];

/**
 * Path of a program of this machine. spawn() would look for it along the PATH that the child is given, and a child that is to
 * run inside an image gets the image's.
 * @throws ClipError SYSTEM when there is none
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
  throw new ClipError('SYSTEM', `this machine has no ${name}`, { hint: `install it, or add its directory to PATH` });
}
