/**
 * The FUSE kernel interface: numbers and layouts only. Authority: include/uapi/linux/fuse.h, protocol 7.45; the struct each
 * group belongs to is named beside it. Native byte order, which here is little-endian.
 */

export const FUSE_KERNEL_VERSION = 7;
/** The version that clip speaks. The kernel offers its own and uses the smaller. */
export const FUSE_KERNEL_MINOR = 45;
/** Linux 5.4. Older kernels lack required features: directories without OPENDIR (7.29), cached symlinks (7.28), max_pages (7.28). */
export const FUSE_OLDEST_MINOR = 31;
export const FUSE_ROOT_ID = 1;

/** struct fuse_in_header. */
export const IN = { len: 0, opcode: 4, unique: 8, nodeid: 16, uid: 24, gid: 28, pid: 32 } as const;
export const IN_HEADER = 40;

/** struct fuse_out_header. A notification has unique 0 and its code in `error`. */
export const OUT = { len: 0, error: 4, unique: 8 } as const;
export const OUT_HEADER = 16;

/** struct fuse_attr: 88 bytes. */
export const ATTR = {
  ino: 0,
  size: 8,
  blocks: 16,
  atime: 24,
  mtime: 32,
  ctime: 40,
  atimensec: 48,
  mtimensec: 52,
  ctimensec: 56,
  mode: 60,
  nlink: 64,
  uid: 68,
  gid: 72,
  rdev: 76,
  blksize: 80,
  flags: 84,
} as const;
const ATTR_SIZE = 88;

/** struct fuse_entry_out: 40 bytes and an attr. */
export const ENTRY = { nodeid: 0, generation: 8, entryValid: 16, attrValid: 24, validNsec: 32, attr: 40 } as const;
export const ENTRY_SIZE = ENTRY.attr + ATTR_SIZE;

/** struct fuse_attr_out. */
export const ATTR_OUT = { attrValid: 0, attrValidNsec: 8, attr: 16 } as const;
export const ATTR_OUT_SIZE = ATTR_OUT.attr + ATTR_SIZE;

/** struct fuse_dirent; the name follows, and the record is padded to 8. */
export const DIRENT = { ino: 0, off: 8, namelen: 16, type: 20, name: 24 } as const;

/** struct fuse_read_in, also READDIR and READDIRPLUS. */
export const READ_IN = { fh: 0, offset: 8, size: 16 } as const;
export const READ_IN_SIZE = 40;

/** struct fuse_getxattr_in, also LISTXATTR; the name follows. fuse_getxattr_out is a u32 size, padded to 8. */
export const GETXATTR_IN = { size: 0, name: 8 } as const;
export const GETXATTR_OUT_SIZE = 8;

/** struct fuse_lseek_in and fuse_lseek_out. */
export const LSEEK_IN = { fh: 0, offset: 8, whence: 16 } as const;
export const LSEEK_IN_SIZE = 24;
export const LSEEK_OUT_SIZE = 8;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

export const W_OK = 2;

/** struct fuse_interrupt_in. */
export const INTERRUPT_IN = { unique: 0 } as const;

/** struct fuse_statfs_out (fuse_kstatfs). */
export const STATFS = {
  blocks: 0,
  bfree: 8,
  bavail: 16,
  files: 24,
  ffree: 32,
  bsize: 40,
  namelen: 44,
  frsize: 48,
} as const;
export const STATFS_SIZE = 80;

/** struct fuse_init_in. */
export const INIT_IN = { major: 0, minor: 4, maxReadahead: 8, flags: 12, flags2: 16 } as const;
/** Without flags2, as kernels before 7.36 send it. */
export const INIT_IN_SHORT = 16;
/** struct fuse_init_out. */
export const INIT_OUT = {
  major: 0,
  minor: 4,
  maxReadahead: 8,
  flags: 12,
  maxBackground: 16, // u16
  congestionThreshold: 18, // u16
  maxWrite: 20,
  timeGran: 24,
  maxPages: 28, // u16
  mapAlignment: 30, // u16
  flags2: 32,
} as const;
export const INIT_OUT_SIZE = 64;

/** INIT flags, low word. */
export const FUSE_ASYNC_READ = 1 << 0;
export const FUSE_DO_READDIRPLUS = 1 << 13;
export const FUSE_READDIRPLUS_AUTO = 1 << 14;
export const FUSE_ASYNC_DIO = 1 << 15;
export const FUSE_NO_OPEN_SUPPORT = 1 << 17;
export const FUSE_PARALLEL_DIROPS = 1 << 18;
export const FUSE_POSIX_ACL = 1 << 20;
export const FUSE_MAX_PAGES = 1 << 22;
export const FUSE_CACHE_SYMLINKS = 1 << 23;
export const FUSE_NO_OPENDIR_SUPPORT = 1 << 24;
export const FUSE_INIT_EXT = 1 << 30;
/** INIT flags, high word (flags2): bits 32 and up of the header's numbering. */
export const FUSE2_HAS_RESEND = 1 << (39 - 32);

/** enum fuse_opcode. */
export const Op = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  READLINK: 5,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  SETXATTR: 21,
  GETXATTR: 22,
  LISTXATTR: 23,
  REMOVEXATTR: 24,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  ACCESS: 34,
  CREATE: 35,
  INTERRUPT: 36,
  DESTROY: 38,
  NOTIFY_REPLY: 41,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
  RENAME2: 45,
  LSEEK: 46,
  TMPFILE: 51,
} as const;

/** enum fuse_notify_code: makes the kernel drop pages of a file. */
export const FUSE_NOTIFY_INVAL_INODE = 2;
/** struct fuse_notify_inval_inode_out */
export const INVAL_INODE = { ino: 0, offset: 8, length: 16 } as const;
export const INVAL_INODE_SIZE = 24;

/** enum fuse_notify_code: makes the kernel queue again the requests that a dead server had taken (Linux ≥ 6.9). */
export const FUSE_NOTIFY_RESEND = 7;

/** `max_write` we announce: nothing is ever written, so the request buffer need not be larger (the kernel wants 8 KiB at least). */
export const MAX_WRITE = 4096;
/** max_pages we announce: reads of at most 1 MiB, the kernel's own limit by default. */
export const MAX_PAGES = 256;
export const MAX_READ = MAX_PAGES * 4096;
/**
 * Page-cache reads count as background requests, of which the kernel sends 12 by default: 12 stuck misses would stop every hit
 * (docs/internals/fuse.md, "Background requests").
 */
export const MAX_BACKGROUND = 4096;
export const CONGESTION_THRESHOLD = 3072;
/** Seconds an entry or its attributes stay valid: 136 years. The image never changes. */
export const FOREVER = 0xffff_ffff;
/** st_blksize, by which programs size their buffers. */
export const BLOCK_SIZE = 4096;
export const NAME_MAX = 255;
