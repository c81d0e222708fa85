import { closeSync, openSync } from 'node:fs';
import { check } from './errno.js';
import * as abi from './flags.js';
import { mountFileSystem } from './mount.js';
import * as sys from './syscalls.js';

/** netdevice(7): struct ifreq, a name of 16 bytes and then, here, 16 bits of flags. */
const IFREQ = { bytes: 40, flags: 16 } as const;

/** A new namespace's loopback interface is down. */
function raiseLoopback(): void {
  const socket = check(sys.socket(abi.AF_INET, abi.SOCK_DGRAM | abi.SOCK_CLOEXEC), 'socket');
  try {
    const request = Buffer.alloc(IFREQ.bytes);
    request.write('lo');
    request.writeUInt16LE(abi.IFF_UP, IFREQ.flags);
    check(sys.ioctl(socket, abi.SIOCSIFFLAGS, request), 'ioctl SIOCSIFFLAGS lo');
  } finally {
    sys.close(socket);
  }
}

/**
 * Makes a network namespace that lives as long as its mount on a file. This thread enters it (unshare(2)), mounts it, and goes back
 * (setns(2)), without a moment in which other code of the thread runs.
 * @param path an empty file that exists
 */
export function makeNetworkNamespace(path: string): void {
  const own = openSync('/proc/thread-self/ns/net', 'r');
  try {
    check(sys.syscall(abi.SYS_unshare, abi.CLONE_NEWNET), 'unshare CLONE_NEWNET');
    try {
      raiseLoopback();
      mountFileSystem({ type: 'none', source: '/proc/thread-self/ns/net', target: path, flags: abi.MS_BIND });
    } finally {
      check(sys.syscall(abi.SYS_setns, own, abi.CLONE_NEWNET), 'setns CLONE_NEWNET');
    }
  } finally {
    closeSync(own);
  }
}
