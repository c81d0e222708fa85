import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { check, Errno, SystemCallError } from './errno.js';
import * as abi from './flags.js';
import { inMountNamespace, openWithoutLinks, uniqueMountId } from './mount-namespace.js';
import { mountIdOf } from './mountinfo.js';
import * as sys from './syscalls.js';

export interface MountOptions {
  /** File system type, "overlay" for one. */
  type: string;
  source: string;
  target: string;
  /** MS_… */
  flags: number;
  /** Options for the file system; the kernel takes at most one page. */
  data?: string;
}

/** mount(2). */
export function mountFileSystem(options: MountOptions): void {
  const data = options.data ?? null;
  const call = `mount ${options.type} on ${options.target}`;
  // The kernel copies one page and silently drops the rest.
  if (data !== null && Buffer.byteLength(data) >= 4096)
    throw new SystemCallError(call, 22, 'more than 4095 bytes of options');
  check(sys.mount(options.source, options.target, options.type, options.flags, data), call);
}

/** A copy of the mount at `source`, nowhere in the tree yet: open_tree(2). */
function cloneMount(source: string, call: string): number {
  const path = sys.cString(source);
  const how = abi.OPEN_TREE_CLONE | abi.O_CLOEXEC; // OPEN_TREE_CLOEXEC
  return check(sys.syscall(abi.SYS_open_tree, abi.AT_FDCWD, sys.addressOf(path), how), call);
}

/** Puts a mount that is nowhere in the tree at an open directory: move_mount(2). No path is looked up. */
function moveMount(mount: number, target: number, call: string): void {
  const empty = sys.cString('');
  const both = abi.MOVE_MOUNT_F_EMPTY_PATH | abi.MOVE_MOUNT_T_EMPTY_PATH;
  check(sys.syscall(abi.SYS_move_mount, mount, sys.addressOf(empty), target, sys.addressOf(empty), both), call);
}

/**
 * Makes what is mounted at `source` also appear at a directory that is open (O_PATH is enough), with the flags that it has there.
 * No path of the target is looked up, so no other process can lead the mount elsewhere.
 * @param flags MS_NOSUID and the like, in place of the source's
 * @returns the new mount's id
 */
export function bindMountAt(source: string, target: number, shown: string, flags?: number): number {
  const call = `bind mount ${source} on ${shown}`;
  const clone = cloneMount(source, call);
  try {
    const id = mountIdOf(clone);
    moveMount(clone, target, call);
    if (flags !== undefined) {
      const here = `/proc/self/fd/${clone}`;
      const result = sys.mount('none', here, null, abi.MS_BIND | abi.MS_REMOUNT | flags, null);
      if (result < 0) {
        sys.umount2(here, abi.MNT_DETACH);
        throw new SystemCallError(call, -result);
      }
    }
    return id;
  } finally {
    sys.close(clone);
  }
}

/** struct mount_attr: attr_set, attr_clr, propagation, userns_fd. */
const MOUNT_ATTR_BYTES = 32;

/**
 * The same at a directory of another mount namespace, which this thread enters for the last step: the kernel moves a mount to its caller's
 * namespace only.
 * @param target the directory, open, or its path there without symbolic links
 * @param without MOUNT_ATTR_NOSUID and the like, which the source has and the new mount has not
 * @returns the new mount's number (`uniqueMountId`)
 */
export function bindMountIn(
  namespace: number,
  source: string,
  target: number | string,
  shown: string,
  without: number,
): bigint {
  const call = `bind mount ${source} on ${shown}`;
  const clone = cloneMount(source, call);
  try {
    if (without !== 0) {
      const attributes = Buffer.alloc(MOUNT_ATTR_BYTES);
      attributes.writeBigUInt64LE(BigInt(without), 8);
      const empty = sys.cString('');
      const [path, change] = [sys.addressOf(empty), sys.addressOf(attributes)];
      check(sys.syscall(abi.SYS_mount_setattr, clone, path, abi.AT_EMPTY_PATH, change, MOUNT_ATTR_BYTES), call);
    }
    const id = uniqueMountId(clone);
    inMountNamespace(namespace, () => {
      if (typeof target === 'number') return moveMount(clone, target, call);
      const directory = check(openWithoutLinks(target, abi.O_PATH | constants.O_DIRECTORY), call);
      try {
        moveMount(clone, directory, call);
      } finally {
        sys.close(directory);
      }
    });
    return id;
  } finally {
    sys.close(clone);
  }
}

/**
 * umount2(2), never through a symlink at the end of the path.
 * @param how 'lazy' takes it out of the tree at once and ends it with its last user; 'force' aborts its requests
 */
export function unmount(target: string | Uint8Array, how?: 'lazy' | 'force'): void {
  const how2 = how === 'lazy' ? abi.MNT_DETACH : how === 'force' ? abi.MNT_FORCE : 0;
  check(
    sys.umount2(target, how2 | abi.UMOUNT_NOFOLLOW),
    `unmount ${typeof target === 'string' ? target : Buffer.from(target).toString()}`,
  );
}

/**
 * Takes the mount whose root is open out of the tree at once; it goes when its last user does. umount2(2) steps onto a mount
 * that covers this one and takes that one instead: ask `mountIdOf` before, and mountinfo after.
 */
export function detachMount(fd: number, shown: string): void {
  check(sys.umount2(`/proc/self/fd/${fd}`, abi.MNT_DETACH), `unmount ${shown}`);
}

/** fsconfig(2) copies a string of at most 256 bytes with its NUL. */
const MAX_FSCONFIG_VALUE = 255;

export interface ErofsMountOptions {
  readonly suid?: boolean;
  readonly dev?: boolean;
  /** Devices are read with O_DIRECT, so their bytes are in the page cache once, where the kernel knows the option (Linux 6.13). */
  readonly directio?: boolean;
}

/**
 * Opens an EROFS image (a plain file; Linux ≥ 6.12) with its devices, in their order, as a mount that is nowhere in the tree yet. By
 * fsopen(2) and friends, because mount(2) cuts its options after one page: 127 devices would be lost. The caller has read the whole
 * image just before: a primary that is cold on ext4 has made the kernel warn (ext4_check_map_extents_env).
 * @returns the descriptor of the mount's root; the mount goes with it unless `attachMount` has put it somewhere
 */
export function openErofs(primary: string, devices: readonly string[], options: ErofsMountOptions = {}): number {
  const call = `mount erofs ${primary}`;
  const type = sys.cString('erofs');
  const context = check(sys.syscall(abi.SYS_fsopen, sys.addressOf(type), abi.FSOPEN_CLOEXEC), call);
  let links: string | undefined;
  const shortened = (path: string): string => {
    if (Buffer.byteLength(path) <= MAX_FSCONFIG_VALUE) return path;
    links ??= mkdtempSync(join(tmpdir(), 'clip-erofs-'));
    const link = join(links, String(Math.random()).slice(2));
    symlinkSync(path, link);
    return link;
  };
  const tryTo = (command: number, key: string | null, value: string | null): number => {
    const keyBytes = key === null ? null : sys.cString(key);
    const valueBytes = value === null ? null : sys.cString(value);
    return sys.syscall(
      abi.SYS_fsconfig,
      context,
      command,
      keyBytes === null ? 0 : sys.addressOf(keyBytes),
      valueBytes === null ? 0 : sys.addressOf(valueBytes),
      0,
    );
  };
  const configure = (command: number, key: string | null, value: string | null): void => {
    const result = tryTo(command, key, value);
    if (result < 0) throw new SystemCallError(call, -result, readLog(context));
  };
  try {
    configure(abi.FSCONFIG_SET_STRING, 'source', shortened(primary));
    for (const device of devices) configure(abi.FSCONFIG_SET_STRING, 'device', shortened(device));
    configure(abi.FSCONFIG_SET_FLAG, 'ro', null);
    if (options.directio) tryTo(abi.FSCONFIG_SET_FLAG, 'directio', null);
    configure(abi.FSCONFIG_CMD_CREATE, null, null);
    const attributes =
      abi.MOUNT_ATTR_RDONLY | (options.suid ? 0 : abi.MOUNT_ATTR_NOSUID) | (options.dev ? 0 : abi.MOUNT_ATTR_NODEV);
    const mounted = sys.syscall(abi.SYS_fsmount, context, abi.FSMOUNT_CLOEXEC, attributes);
    if (mounted < 0) throw new SystemCallError(call, -mounted, readLog(context));
    return mounted;
  } finally {
    sys.close(context);
    if (links !== undefined) rmSync(links, { recursive: true, force: true });
  }
}

/**
 * Sets how far the kernel reads ahead in a mount whose root is open: by the name that its file system has in sysfs
 * (FS_IOC_GETFSSYSFSPATH, Linux 6.9), which is also its backing device's.
 * @returns false where the kernel does not say, or does not let it be set
 */
export function setReadAhead(root: number, bytes: number): boolean {
  const answer = Buffer.alloc(1 + abi.FS_SYSFS_PATH_MAX);
  const directory = openSync(`/proc/self/fd/${root}`, constants.O_RDONLY);
  try {
    if (sys.ioctl(directory, abi.FS_IOC_GETFSSYSFSPATH, answer) < 0) return false;
  } finally {
    closeSync(directory);
  }
  const name = basename(answer.toString('latin1', 1, 1 + answer[0]!));
  try {
    writeFileSync(`/sys/class/bdi/${name}/read_ahead_kb`, String(bytes >> 10), { flag: 'r+' });
    return true;
  } catch {
    return false;
  }
}

/** Puts a mount that is nowhere in the tree at a directory. @returns its id */
export function attachMount(mount: number, target: string): number {
  const call = `mount on ${target}`;
  const empty = sys.cString('');
  const place = sys.cString(target);
  const result = sys.syscall(
    abi.SYS_move_mount,
    mount,
    sys.addressOf(empty),
    abi.AT_FDCWD,
    sys.addressOf(place),
    abi.MOVE_MOUNT_F_EMPTY_PATH,
  );
  check(result, call);
  return mountIdOf(mount);
}

/** Mounts an EROFS image at a directory, read-only: see `openErofs`. */
export function mountErofs(
  primary: string,
  devices: readonly string[],
  target: string,
  options: ErofsMountOptions = {},
): void {
  readFileSync(primary);
  const mount = openErofs(primary, devices, options);
  try {
    attachMount(mount, target);
  } finally {
    sys.close(mount);
  }
}

/** The kernel's messages about a file system context: "e erofs: …" lines, one per read. */
function readLog(context: number): string {
  const line = Buffer.alloc(1024);
  const lines: string[] = [];
  for (;;) {
    const length = sys.read(context, line, line.length);
    if (length <= 0) return lines.join('; ');
    lines.push(line.toString('utf8', 0, length).trim());
  }
}

/**
 * Unmounts one mount of another mount namespace, and no other.
 * @param path where it is (`mountPointIn`)
 * @param mount its number (`uniqueMountId`)
 * @throws SystemCallError EBUSY; EINVAL when another mount is there
 */
export function unmountIn(namespace: number, path: string, mount: bigint, how: 'normal' | 'lazy'): void {
  const call = `unmount ${path}`;
  const name = sys.cString(basename(path));
  inMountNamespace(namespace, () => {
    const parent = check(openWithoutLinks(dirname(path), abi.O_PATH | constants.O_DIRECTORY), call);
    try {
      // No process can rename a mount point, and the directories above it are not looked up again.
      check(sys.syscall(abi.SYS_fchdir, parent), call);
      const top = check(openWithoutLinks(basename(path), abi.O_PATH | constants.O_DIRECTORY), call);
      const found = uniqueMountId(top);
      sys.close(top);
      if (found !== mount) throw new SystemCallError(call, Errno.EINVAL, 'another mount covers it');
      check(sys.umount2(name, abi.UMOUNT_NOFOLLOW | (how === 'lazy' ? abi.MNT_DETACH : 0)), call);
    } finally {
      sys.close(parent);
    }
  });
}
