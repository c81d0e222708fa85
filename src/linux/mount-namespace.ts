import { closeSync, fstatSync, openSync } from 'node:fs';
import { check, Errno, SystemCallError } from './errno.js';
import * as abi from './flags.js';
import { openInRoot } from './open-in-root.js';
import * as sys from './syscalls.js';

/**
 * Runs `work` in another mount namespace, at its root, and comes back, without a moment in which other code of this thread runs. Needs
 * CAP_SYS_ADMIN and CAP_SYS_CHROOT. From the first call on the thread has a root and a working directory of its own (CLONE_FS).
 * @param namespace open: /proc/PID/ns/mnt, or one of `openMountNamespace`
 * @param work system calls only: there may be no /proc, and whatever is loaded there is the namespace's
 * @throws SystemCallError when the namespace cannot be entered
 */
export function inMountNamespace<T>(namespace: number, work: () => T): T {
  const own = openSync('/proc/thread-self/ns/mnt', 'r');
  const [root, directory] = [openSync('/', abi.O_PATH), openSync('.', abi.O_PATH)];
  const here = sys.cString('.');
  try {
    check(sys.syscall(abi.SYS_unshare, abi.CLONE_FS), 'unshare CLONE_FS');
    check(sys.syscall(abi.SYS_setns, namespace, abi.CLONE_NEWNS), 'enter the mount namespace');
    try {
      return work();
    } finally {
      const back =
        sys.syscall(abi.SYS_setns, own, abi.CLONE_NEWNS) |
        sys.syscall(abi.SYS_fchdir, root) |
        sys.syscall(abi.SYS_chroot, sys.addressOf(here)) |
        sys.syscall(abi.SYS_fchdir, directory);
      // What it was allowed a moment ago. Going on elsewhere would be worse than a restart.
      if (back !== 0) process.abort();
    }
  } finally {
    for (const fd of [own, root, directory]) closeSync(fd);
  }
}

/** Opens a path from the working directory, which is the root of a namespace that was just entered. @returns a descriptor, or −errno */
export function openWithoutLinks(path: string, how: number): number {
  return openInRoot(abi.AT_FDCWD, path, how, abi.RESOLVE_NO_SYMLINKS);
}

/** The number of an open mount namespace that the kernel gives to no other until the next boot (Linux 6.11). @throws SystemCallError */
export function mountNamespaceId(namespace: number): bigint {
  const id = Buffer.alloc(8);
  check(sys.ioctl(namespace, abi.NS_GET_MNTNS_ID, id), 'ask for the id of a mount namespace');
  return id.readBigUInt64LE();
}

/** "mnt:[4026531841]", as the link in /proc/PID/ns has it. */
export function mountNamespaceName(namespace: number): string {
  return `mnt:[${fstatSync(namespace).ino}]`;
}

/**
 * Opens the mount namespace that has this number, from one to the next of all that this process may enter (ioctl_nsfs(2), Linux 6.12).
 * @returns null when there is none any more
 */
export function openMountNamespace(id: bigint): number | null {
  let fd = openSync('/proc/thread-self/ns/mnt', 'r');
  try {
    const step = mountNamespaceId(fd) < id ? abi.NS_MNT_GET_NEXT : abi.NS_MNT_GET_PREV;
    for (let seen = mountNamespaceId(fd); seen !== id; seen = mountNamespaceId(fd)) {
      if (step === abi.NS_MNT_GET_NEXT ? seen > id : seen < id) return null;
      const next = sys.ioctl(fd, step, null);
      if (next === -Errno.ENOENT) return null;
      check(next, 'look for a mount namespace');
      closeSync(fd);
      fd = next;
    }
    const found = fd;
    fd = -1;
    return found;
  } finally {
    if (fd >= 0) closeSync(fd);
  }
}

/** struct statx: stx_mnt_id. */
const STATX = { bytes: 256, mountId: 144 } as const;

/** The number of the mount that an open file lies on, which no other mount gets until the next boot (Linux 6.8). */
export function uniqueMountId(fd: number): bigint {
  const status = Buffer.alloc(STATX.bytes);
  const empty = sys.cString('');
  check(sys.statx(fd, empty, abi.AT_EMPTY_PATH, abi.STATX_MNT_ID_UNIQUE, status), 'ask for the id of a mount');
  return status.readBigUInt64LE(STATX.mountId);
}

/** struct mnt_id_req, and struct statmount with the offset of its strings (statmount(2)). */
const REQUEST_BYTES = 32;
const STATMOUNT = { mask: 8, mountPoint: 108, strings: 512, bytes: 512 + 2 * 4096 } as const;

/**
 * Where a mount of any mount namespace is, below that namespace's root (statmount(2), Linux 6.11).
 * @returns null when the mount or its namespace has gone
 */
export function mountPointIn(namespace: bigint, mount: bigint): string | null {
  const request = Buffer.alloc(REQUEST_BYTES);
  request.writeUInt32LE(REQUEST_BYTES, 0);
  request.writeBigUInt64LE(mount, 8);
  request.writeBigUInt64LE(BigInt(abi.STATMOUNT_MNT_POINT), 16);
  request.writeBigUInt64LE(namespace, 24);
  const answer = Buffer.alloc(STATMOUNT.bytes);
  const result = sys.syscall(abi.SYS_statmount, sys.addressOf(request), sys.addressOf(answer), answer.length, 0, 0);
  if (result === -Errno.ENOENT) return null;
  if (result < 0 || request.length === 0) throw new SystemCallError('statmount', -result);
  const start = STATMOUNT.strings + answer.readUInt32LE(STATMOUNT.mountPoint);
  return answer.toString('utf8', start, answer.indexOf(0, start));
}
