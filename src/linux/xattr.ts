import { Errno, errnoName, SystemCallError } from './errno.js';
import * as sys from './syscalls.js';

/** VFS limits (linux/limits.h): XATTR_LIST_MAX and XATTR_SIZE_MAX. */
const LIST_MAX = 65536;
const SIZE_MAX = 65536;

const text = (path: sys.Path): string => (typeof path === 'string' ? path : Buffer.from(path).toString());

/** A list as the kernel gives it: kept, because touching new memory takes longer than the call. */
let list: Buffer | undefined;

/** Names of the extended attributes of a file, symlinks not followed, as bytes in the kernel's order. */
export function listXattr(path: sys.Path): Buffer[] {
  list ??= Buffer.allocUnsafeSlow(LIST_MAX);
  const buffer = list;
  const length = sys.llistxattr(path, buffer, buffer.length);
  if (length < 0) throw new SystemCallError(`list xattrs of ${text(path)}`, -length);
  const names: Buffer[] = [];
  for (let at = 0; at < length; ) {
    const end = buffer.indexOf(0, at);
    names.push(Buffer.from(buffer.subarray(at, end)));
    at = end + 1;
  }
  return names;
}

/** The value, or null if the file has no xattr of this name. */
export function getXattr(path: sys.Path, name: sys.Path): Buffer | null {
  const buffer = Buffer.allocUnsafeSlow(SIZE_MAX);
  const length = sys.lgetxattr(path, name, buffer, buffer.length);
  if (length === -Errno.ENODATA) return null;
  if (length < 0) throw new SystemCallError(`get xattr ${text(name)} of ${text(path)}`, -length);
  return Buffer.from(buffer.subarray(0, length));
}

export function setXattr(path: sys.Path, name: sys.Path, value: Uint8Array): void {
  const result = sys.lsetxattr(path, name, value, 0);
  if (result < 0) throw new SystemCallError(`set xattr ${text(name)} of ${text(path)}`, -result, errnoName(-result));
}
