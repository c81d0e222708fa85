/**
 * The tar header block. POSIX.1-2017 "pax", section "ustar Interchange Format"; GNU and star fields from their manuals
 * (GNU tar "Basic Tar Format", star(4)).
 */
export const BLOCK = 512;

/** [offset, length] of each field of the header block. */
export const FIELD = {
  name: [0, 100],
  mode: [100, 8],
  uid: [108, 8],
  gid: [116, 8],
  size: [124, 12],
  mtime: [136, 12],
  checksum: [148, 8],
  type: [156, 1],
  linkname: [157, 100],
  magic: [257, 8],
  devMajor: [329, 8],
  devMinor: [337, 8],
  prefix: [345, 155],
  /** star: 131 bytes of prefix, then atime and ctime. */
  starPrefix: [345, 131],
  /** star: "tar\0" in the block's last four bytes; before star knew POSIX, the only magic there was. */
  starTrailer: [508, 4],
  oldStarRdev: [278, 12],
  gnuAtime: [345, 12],
  gnuCtime: [357, 12],
  /** Old GNU sparse: four entries of {offset 12, length 12}, "is extended", real size. */
  gnuSparse: [386, 96],
  gnuIsExtended: [482, 1],
  gnuRealSize: [483, 12],
} as const;

/** Old GNU sparse extension block: 21 entries, then "is extended". */
export const SPARSE_ENTRY = 24;
export const SPARSE_IN_HEADER = 4;
export const SPARSE_IN_EXTENSION = 21;
export const SPARSE_EXTENSION_FLAG = 504;

/**
 * Longest payload of a pax header, a GNU long name or a GNU.sparse 1.0 map. Go's archive/tar, which every container engine
 * unpacks with, refuses more than this (maxSpecialFileSize), so no image in use has it.
 */
export const SPECIAL_MAX = 1 << 20;
/**
 * Bytes of values that a global pax header may hold: they count again for every entry that follows. Writers use it for a
 * comment (git) or common times and owners.
 */
export const GLOBAL_MAX = 4096;
/** Most data segments of one sparse file: 2^20 of them cost 16 MiB of columns; an attacker pays 24 bytes of tar for each. */
export const SPARSE_SEGMENTS_MAX = 1 << 20;

/**
 * Entries of a layer, and of all layers of an image: eight times the half million that test/e2e/index-memory.test.ts indexes with
 * 400 bytes of memory for each. Without a limit a megabyte of compressed headers makes a million of them.
 */
export const ENTRIES_MAX = 4 * 1024 * 1024;
/** Bytes of names, link targets and xattrs of one layer: 256 for each entry of the largest layer. Real entries need about 100. */
export const NAMES_MAX = 256 * ENTRIES_MAX;

/** st_mode type bits (inode(7)). */
export const S_IFMT = 0o170000;
export const S_IFSOCK = 0o140000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;

/** The kernel's new_encode_dev(): 12 bits of major, 20 bits of minor. */
export function encodeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & ~0xff) << 12)) >>> 0;
}
