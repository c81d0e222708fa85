/**
 * EROFS on disk, the subset this program writes and reads. Little-endian throughout.
 * Authority: the kernel's Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h (struct names below are from there).
 */
import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK } from '../tar/index.js';

/** Tar data starts at multiples of this; it is our block size. */
export const BLOCK = 512;

/** erofs_super_block: at byte 1024, 128 bytes. */
export const SUPER_OFFSET = 1024;
export const SUPER_SIZE = 128;
export const SUPER_MAGIC = 0xe0f5e1e2;
export const SB = {
  magic: 0, // u32
  checksum: 4, // u32, crc32c of one block from SUPER_OFFSET, this field zeroed
  featureCompat: 8, // u32
  blockBits: 12, // u8
  extSlots: 13, // u8
  rootNid: 14, // u16
  inodes: 16, // u64
  epoch: 24, // u64: the mtime of every compact inode
  fixedNsec: 32, // u32
  blocks: 36, // u32
  metaBlock: 40, // u32
  xattrBlock: 44, // u32
  uuid: 48, // 16 bytes
  volumeName: 64, // 16 bytes
  featureIncompat: 80, // u32
  extraDevices: 86, // u16
  deviceTableSlot: 88, // u16, in units of DEVICE_SLOT_SIZE
  dirBlockBits: 90, // u8: a directory block is 2^this blocks
} as const;

export const FEATURE_COMPAT_SB_CHECKSUM = 0x1;
export const FEATURE_COMPAT_MTIME = 0x2;
export const FEATURE_INCOMPAT_CHUNKED_FILE = 0x4;
export const FEATURE_INCOMPAT_DEVICE_TABLE = 0x8;

/** erofs_deviceslot: 128 bytes. */
export const DEVICE_SLOT_SIZE = 128;
export const DEVICE = { tag: 0, tagSize: 64, blocks: 64 /* u32 */, uniaddr: 68 /* u32 */ } as const;

/** An inode is at metaBlock * blockSize + NID_UNIT * nid. */
export const NID_UNIT = 32;

/** i_format: bit 0 = extended, bits 1-3 = data layout. */
export const FORMAT_EXTENDED = 1;
export const LAYOUT_SHIFT = 1;
export const LAYOUT_MASK = 7;
export const LAYOUT_FLAT_PLAIN = 0;
export const LAYOUT_FLAT_INLINE = 2;
export const LAYOUT_CHUNK_BASED = 4;

/** erofs_inode_compact: 32 bytes; its mtime is the superblock's epoch. */
export const COMPACT_SIZE = 32;
export const COMPACT = {
  format: 0,
  xattrCount: 2,
  mode: 4,
  nlink: 6,
  size: 8,
  u: 16,
  ino: 20,
  uid: 24,
  gid: 26,
} as const;

/** erofs_inode_extended: 64 bytes. */
export const EXTENDED_SIZE = 64;
export const EXTENDED = {
  format: 0, // u16
  xattrCount: 2, // u16
  mode: 4, // u16
  size: 8, // u64
  u: 16, // u32: start block, device number (new_encode_dev) or chunk format
  ino: 20, // u32
  uid: 24, // u32
  gid: 28, // u32
  mtime: 32, // i64
  mtimeNsec: 40, // u32
  nlink: 44, // u32
} as const;

/** i_u of a chunk-based file: bits 0-4 = log2(chunk size / block size), bit 5 = 8-byte indexes instead of 4-byte block numbers. */
export const CHUNK_BITS_MASK = 0x1f;
export const CHUNK_INDEXES = 0x20;
/** erofs_inode_chunk_index: start block high u16, device id u16 (1-based), start block low u32. */
export const CHUNK_INDEX_SIZE = 8;
/** The low half of the start block of a hole. */
export const NULL_BLOCK = 0xffffffff;

/** erofs_dirent: nid u64, name offset u16, type u8, reserved u8. */
export const DIRENT_SIZE = 12;
export const NAME_MAX = 255;
export const FT = { regular: 1, directory: 2, character: 3, block: 4, fifo: 5, socket: 6, symlink: 7 } as const;

/** erofs_xattr_ibody_header: name filter u32, shared count u8, 7 reserved; then shared ids (u32 each), then entries. */
export const XATTR_HEADER_SIZE = 12;
/** erofs_xattr_entry: name length u8, name index u8, value size u16; then name, value; padded to 4. */
export const XATTR_ENTRY_SIZE = 4;
/** The name index stands for the prefix that was taken off the name. */
export const XATTR_PREFIXES: readonly { readonly index: number; readonly prefix: string; readonly exact: boolean }[] = [
  { index: 2, prefix: 'system.posix_acl_access', exact: true },
  { index: 3, prefix: 'system.posix_acl_default', exact: true },
  { index: 1, prefix: 'user.', exact: false },
  { index: 4, prefix: 'trusted.', exact: false },
  { index: 6, prefix: 'security.', exact: false },
];
export const XATTR_VALUE_MAX = 65535;

export { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK };

/** The dirent type of a mode; 0 (unknown) for a mode that has no type. */
export function fileTypeOfMode(mode: number): number {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return FT.regular;
    case S_IFDIR:
      return FT.directory;
    case S_IFCHR:
      return FT.character;
    case S_IFBLK:
      return FT.block;
    case S_IFIFO:
      return FT.fifo;
    case S_IFSOCK:
      return FT.socket;
    case S_IFLNK:
      return FT.symlink;
    default:
      return 0;
  }
}
