import { Errno } from './errno.js';
import * as flags from './flags.js';
import * as sys from './syscalls.js';

/** Each try may meet a rename or a mount somewhere on the machine. None takes longer than a lookup. */
const MAX_TRIES = 128;

/**
 * openat2(2) with RESOLVE_IN_ROOT (Linux 5.6): `path` is resolved as if the directory were "/", so that neither ".." nor an
 * absolute symlink leads out of it, also while another process changes the tree. Closed on exec. The kernel gives EAGAIN for a
 * ".." when anything was renamed or mounted meanwhile, wherever (openat2(2), "ERRORS"): then it is asked again.
 * @param also further RESOLVE_… that hold: RESOLVE_NO_SYMLINKS
 * @returns a descriptor, or −errno
 */
export function openInRoot(directory: number, path: string, how: number, also = 0): number {
  const name = sys.cString(path);
  // struct open_how: flags, mode, resolve.
  const resolve = BigInt(flags.RESOLVE_IN_ROOT | flags.RESOLVE_NO_MAGICLINKS | also);
  const open = new Uint8Array(new BigUint64Array([BigInt(how | flags.O_CLOEXEC), 0n, resolve]).buffer);
  let result = -Errno.EAGAIN;
  for (let tries = 0; tries < MAX_TRIES && result === -Errno.EAGAIN; tries++) {
    result = sys.syscall(flags.SYS_openat2, directory, sys.addressOf(name), sys.addressOf(open), open.length);
  }
  // The call has only their addresses: both must live until it is over.
  return name.length + open.length > 0 ? result : 0;
}
