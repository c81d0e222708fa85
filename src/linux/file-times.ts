import { check } from './errno.js';
import * as flags from './flags.js';
import * as sys from './syscalls.js';

const timespecs = new BigInt64Array(4);
const bytes = new Uint8Array(timespecs.buffer);

/** Access and modification time: both of this time. */
function timesOf(seconds: number, nanoseconds: number): Uint8Array {
  for (const i of [0, 2]) {
    timespecs[i] = BigInt(seconds);
    timespecs[i + 1] = BigInt(nanoseconds);
  }
  return bytes;
}

/** Sets access and modification time of what is at a path, to the nanosecond, without following a symlink there. */
export function setFileTime(path: sys.Path, seconds: number, nanoseconds: number): void {
  const text = typeof path === 'string' ? path : Buffer.from(path).toString();
  check(sys.utimensat(path, timesOf(seconds, nanoseconds), flags.AT_SYMLINK_NOFOLLOW), `set the time of ${text}`);
}

/** The same of an open file. */
export function setOpenFileTime(fd: number, seconds: number, nanoseconds: number): void {
  check(sys.futimens(fd, timesOf(seconds, nanoseconds)), 'set the time of an open file');
}
