import { check, Errno, SystemCallError } from './errno.js';
import * as flags from './flags.js';
import * as sys from './syscalls.js';

/** A user whose file permissions decide, in place of this process's own. */
export interface FileUser {
  readonly uid: number;
  readonly gid: number;
  /** Supplementary groups. Default: none. */
  readonly groups?: readonly number[];
}

/** linux/openat2.h: struct open_how { u64 flags; u64 mode; u64 resolve; }. */
const HOW_BYTES = 24;
/** /proc/sys/kernel/ngroups_max. */
const MAX_GROUPS = 65_536;

/**
 * openat2(2): opens `path` relative to the directory `directory`, without following a symbolic link or a magic link anywhere
 * on the way, and without leaving the directory. O_CLOEXEC is always set.
 *
 * With `user`, the kernel checks the permissions of that user. The calls up to the end of this function concern the calling
 * thread only (credentials belong to a thread in Linux; the C library's own functions would change them for all threads), and
 * nothing else runs on it meanwhile, because the whole is synchronous.
 *
 * @returns a descriptor. @throws SystemCallError ELOOP for a symbolic link, EXDEV for a path that leaves the directory
 */
export function openBeneath(
  directory: number,
  path: string,
  openFlags: number,
  options: { readonly mode?: number; readonly user?: FileUser | undefined } = {},
): number {
  const how = Buffer.alloc(HOW_BYTES);
  how.writeBigUInt64LE(BigInt(openFlags | flags.O_CLOEXEC), 0);
  how.writeBigUInt64LE(BigInt(options.mode ?? 0), 8);
  how.writeBigUInt64LE(BigInt(flags.RESOLVE_BENEATH | flags.RESOLVE_NO_SYMLINKS | flags.RESOLVE_NO_MAGICLINKS), 16);
  const name = sys.cString(path);
  const call = (): number =>
    sys.syscall(flags.SYS_openat2, directory, sys.addressOf(name), sys.addressOf(how), HOW_BYTES);
  const { user } = options;
  const result = user === undefined ? call() : withFilePermissionsOf(user, call);
  return check(result, `open ${path}`);
}

/**
 * Runs a synchronous function with a user's file permissions. Needs CAP_SETUID and CAP_SETGID unless the user is the one that
 * this process runs as.
 */
export function withFilePermissionsOf<T>(user: FileUser, run: () => T): T {
  if (user.uid === process.geteuid?.()) return run();
  const groups = user.groups ?? [];
  if (groups.length > MAX_GROUPS) throw new SystemCallError('set the groups of a user', Errno.EINVAL);
  const ownGroups = process.getgroups?.() ?? [];
  const ownGid = process.getegid?.() ?? 0;
  const ownUid = process.geteuid?.() ?? 0;
  check(setThreadGroups(groups), 'set the groups of this thread');
  try {
    setFileId(flags.SYS_setfsgid, user.gid);
    setFileId(flags.SYS_setfsuid, user.uid);
    return run();
  } finally {
    // In this order: setgroups needs a capability, and those over files alone are dropped with the file uid.
    setFileId(flags.SYS_setfsuid, ownUid);
    setFileId(flags.SYS_setfsgid, ownGid);
    check(setThreadGroups(ownGroups), 'restore the groups of this thread');
  }
}

function setThreadGroups(groups: readonly number[]): number {
  const list = Buffer.alloc(Math.max(4, 4 * groups.length));
  groups.forEach((gid, i) => {
    list.writeUInt32LE(gid, 4 * i);
  });
  return sys.syscall(flags.SYS_setgroups, groups.length, sys.addressOf(list));
}

/** setfsuid(2) and setfsgid(2) report no failure: a second call tells what is set now. */
function setFileId(number: number, id: number): void {
  sys.syscall(number, id);
  const now = sys.syscall(number, -1);
  if (now !== id) throw new SystemCallError(`take the file permissions of ${id}`, Errno.EPERM);
}
