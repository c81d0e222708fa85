import { constants } from 'node:fs';
import { check } from './errno.js';
import * as sys from './syscalls.js';

/** mkfifo(3). */
export function makeFifo(path: string, mode: number): void {
  check(sys.mknod(path, constants.S_IFIFO | mode, 0), 'mkfifo');
}
