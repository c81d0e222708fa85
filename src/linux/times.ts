import { check } from './errno.js';
import * as sys from './syscalls.js';

const times = Buffer.alloc(32);
const view = new DataView(times.buffer, times.byteOffset, times.length);

/** Two struct timespec, both of this time. */
function timespecs(seconds: number, nanoseconds: number): Buffer {
  for (const at of [0, 16]) {
    view.setBigInt64(at, BigInt(seconds), true);
    view.setBigInt64(at + 8, BigInt(nanoseconds), true);
  }
  return times;
}

/** Sets access and modification time to the nanosecond, which Node's calls cannot. A symlink's own is set. */
export function setTimes(path: sys.Path, seconds: number, nanoseconds: number): void {
  check(sys.utimensat(path, timespecs(seconds, nanoseconds)), 'set times');
}

export function setTimesOf(fd: number, seconds: number, nanoseconds: number): void {
  check(sys.futimens(fd, timespecs(seconds, nanoseconds)), 'set times');
}
