/** Constants of the Linux user-space ABI, as on x86-64 and arm64. Those that differ between the two come from Node's `fs.constants`. */

// linux/mount.h
export const MS_RDONLY = 1;
export const MS_NOSUID = 2;
export const MS_NODEV = 4;
export const MS_REMOUNT = 32;
export const MS_BIND = 4096;
export const MNT_FORCE = 1;
export const MNT_DETACH = 2;
export const UMOUNT_NOFOLLOW = 8;

// linux/mount.h, the newer calls
export const FSOPEN_CLOEXEC = 1;
export const FSMOUNT_CLOEXEC = 1;
export const FSCONFIG_SET_FLAG = 0;
export const FSCONFIG_SET_STRING = 1;
export const FSCONFIG_CMD_CREATE = 6;
export const MOUNT_ATTR_RDONLY = 1;
export const MOUNT_ATTR_NOSUID = 2;
export const MOUNT_ATTR_NODEV = 4;
export const MOVE_MOUNT_F_EMPTY_PATH = 4;
export const MOVE_MOUNT_T_EMPTY_PATH = 0x40;
export const OPEN_TREE_CLONE = 1;
export const AT_FDCWD = -100;
export const AT_SYMLINK_NOFOLLOW = 0x100;

// asm/unistd.h: calls newer than some C libraries; since 2019 the numbers are the same on every architecture
// (and an old one that glibc before 2.30 does not offer)
export const SYS_gettid = process.arch === 'x64' ? 186 : 178;
export const SYS_pidfd_send_signal = 424;
export const SYS_open_tree = 428;
export const SYS_move_mount = 429;
export const SYS_fsopen = 430;
export const SYS_fsconfig = 431;
export const SYS_fsmount = 432;
export const SYS_openat2 = 437;
export const SYS_statx = process.arch === 'x64' ? 332 : 291;
export const SYS_fadvise64 = process.arch === 'x64' ? 221 : 223;
export const POSIX_FADV_DONTNEED = 4;
export const SYS_unshare = process.arch === 'x64' ? 272 : 97;
export const SYS_setns = process.arch === 'x64' ? 308 : 268;
export const SYS_fchdir = process.arch === 'x64' ? 81 : 50;
export const SYS_chroot = process.arch === 'x64' ? 161 : 51;
export const SYS_mount_setattr = 442;
export const SYS_statmount = 457;
export const STATMOUNT_MNT_POINT = 0x10;
// The calls themselves: glibc's functions of these names change all threads.
export const SYS_setgroups = process.arch === 'x64' ? 116 : 159;
export const SYS_setfsuid = process.arch === 'x64' ? 122 : 151;
export const SYS_setfsgid = process.arch === 'x64' ? 123 : 152;

// linux/sched.h
export const CLONE_FS = 0x200;
export const CLONE_NEWNS = 0x20000;
export const CLONE_NEWNET = 0x40000000;

// linux/nsfs.h: _IOR(0xb7, 5, __u64), and _IOR(0xb7, 11 and 12, struct mnt_ns_info)
export const NS_GET_MNTNS_ID = 0x8008b705;
export const NS_MNT_GET_NEXT = 0x8010b70b;
export const NS_MNT_GET_PREV = 0x8010b70c;

// linux/sockios.h, linux/if.h
export const SIOCSIFFLAGS = 0x8914;
export const IFF_UP = 1;

// linux/openat2.h
export const RESOLVE_NO_MAGICLINKS = 2;
export const RESOLVE_NO_SYMLINKS = 4;
export const RESOLVE_BENEATH = 8;
export const RESOLVE_IN_ROOT = 0x10;

// fcntl.h
export const O_CLOEXEC = 0o2000000;
export const O_NONBLOCK = 0o4000;
export const O_PATH = 0o10000000;
export const F_SETFD = 2;
export const F_GETFL = 3;
export const F_SETFL = 4;
// linux/fs.h
export const SYNC_FILE_RANGE_WAIT_BEFORE = 1;
export const AT_EMPTY_PATH = 0x1000;
export const STATX_DIOALIGN = 0x2000;
export const STATX_MNT_ID_UNIQUE = 0x4000;
/** _IOR(0x15, 1, struct fs_sysfs_path {u8 len; u8 name[128]}) */
export const FS_SYSFS_PATH_MAX = 128;
export const FS_IOC_GETFSSYSFSPATH = 0x8000_0000 + ((1 + FS_SYSFS_PATH_MAX) << 16) + (0x15 << 8) + 1;
export const FALLOC_FL_KEEP_SIZE = 1;
export const FALLOC_FL_PUNCH_HOLE = 2;
/** preadv2(2): fail with EAGAIN rather than wait for the disk. */
export const RWF_NOWAIT = 8;
export const LOCK_EX = 2;
export const LOCK_NB = 4;

// sys/epoll.h, sys/eventfd.h
export const EPOLL_CLOEXEC = O_CLOEXEC;
export const EPOLL_CTL_ADD = 1;
export const EPOLL_CTL_DEL = 2;
export const EPOLLIN = 1;
export const EPOLLEXCLUSIVE = 0x10000000;
export const EFD_CLOEXEC = O_CLOEXEC;
export const EFD_NONBLOCK = O_NONBLOCK;

// sys/socket.h
export const AF_UNIX = 1;
export const AF_INET = 2;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_SEQPACKET = 5;
export const SOCK_CLOEXEC = O_CLOEXEC;
export const SOCK_NONBLOCK = O_NONBLOCK;
export const SOL_SOCKET = 1;
export const SO_PEERCRED = 17;
export const SO_PEERPIDFD = 77;
export const SCM_RIGHTS = 1;
export const MSG_DONTWAIT = 0x40;
export const MSG_NOSIGNAL = 0x4000;
export const MSG_CMSG_CLOEXEC = 0x40000000;
export const MSG_CTRUNC = 8;

// sys/prctl.h
export const PR_SET_PDEATHSIG = 1;
