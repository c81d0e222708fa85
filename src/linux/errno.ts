import { constants } from 'node:os';

/** Linux error numbers (asm-generic/errno.h; the same on x86-64, arm64 and riscv64). */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  ENOTBLK: 15,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENOTTY: 25,
  ENOSPC: 28,
  EROFS: 30,
  EPIPE: 32,
  ERANGE: 34,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
  ELOOP: 40,
  ENODATA: 61,
  EPROTO: 71,
  EBADMSG: 74,
  EOPNOTSUPP: 95,
  ECONNABORTED: 103,
  ENOTCONN: 107,
  ETIMEDOUT: 110,
  EHWPOISON: 133,
} as const;

const names = new Map<number, string>();
for (const [name, value] of [...Object.entries(Errno), ...Object.entries(constants.errno)]) {
  if (!names.has(value)) names.set(value, name);
}

/** "ENOENT" for 2; "errno 512" for a number without a name. */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `errno ${errno}`;
}

/** A system call that failed. `code` is the name, as in Node's own errors, so that `error.code === 'EBUSY'` works for both. */
export class SystemCallError extends Error {
  override readonly name = 'SystemCallError';
  readonly code: string;

  /**
   * @param call   the call and its objects: "mount /dev/fuse on /mnt/py"
   * @param errno  positive
   * @param detail further words of the kernel, if there are any
   */
  constructor(
    readonly call: string,
    readonly errno: number,
    readonly detail?: string,
  ) {
    super(`${call}: ${errnoName(errno)}${detail ? `: ${detail}` : ''}`);
    this.code = errnoName(errno);
  }
}

/** Returns a result, or throws −errno as a SystemCallError. */
export function check(result: number, call: string): number {
  if (result < 0) throw new SystemCallError(call, -result);
  return result;
}
