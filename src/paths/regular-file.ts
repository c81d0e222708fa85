import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';

/**
 * Opens a regular file for reading. The path may be another user's: a FIFO or a terminal there would keep a plain open waiting for
 * its other end, and with it all that this process does. (O_NONBLOCK means nothing for a regular file.)
 * @throws ClipError BAD_FORMAT when it is something else; Node's error (ENOENT, EACCES …)
 */
export function openRegularFile(path: string): number {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new ClipError('BAD_FORMAT', `${path} is not a file`, { hint: 'give a .clip archive: clipctl index makes one' });
}
