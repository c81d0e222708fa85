import { check } from './errno.js';
import * as flags from './flags.js';
import * as sys from './syscalls.js';

const timespecs = new BigInt64Array(4);
const bytes = new Uint8Array(timespecs.buffer);

/** Sets access and modification time of what is at a path, to the nanosecond, without following a symlink there. */
export function setFileTime(path: sys.Path, seconds: number, nanoseconds: number): void {
  for (const i of [0, 2]) {
    timespecs[i] = BigInt(seconds);
    timespecs[i + 1] = BigInt(nanoseconds);
  }
  const text = typeof path === 'string' ? path : Buffer.from(path).toString();
  check(sys.utimensat(path, bytes, flags.AT_SYMLINK_NOFOLLOW), `set the time of ${text}`);
}
