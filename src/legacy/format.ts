/** The predecessor's archive, version 1: layout and constants only (docs/legacy.md, "The format"). */

/** 0x89 "CLIP" CR LF SUB LF: v2's, too. */
export const MAGIC: Uint8Array = Uint8Array.of(0x89, 0x43, 0x4c, 0x49, 0x50, 0x0d, 0x0a, 0x1a, 0x0a);
export const VERSION = 1;

/**
 * Header, little-endian, as Go's encoding/binary writes the struct:
 *   0  magic 9                  9  version u8
 *  10  index length i64        18  index position i64
 *  26  info length i64         34  info position i64
 *  42  info type [12], zero-padded text: "", "s3", "oci"
 */
export const HEADER = { version: 9, infoType: 42 } as const;
export const HEADER_SIZE = 54;
export const INFO_TYPE_SIZE = 12;

/** A data block: type u8, the content (DataPos points at it), CRC-64 of the content, big-endian. */
export const BLOCK_TYPE_FILE = 0;
export const BLOCK_TYPE_SIZE = 1;
export const BLOCK_SUM_SIZE = 8;

/**
 * Bytes an index may have: 10 million nodes of 200 bytes, which the tree could not hold either (its limit is 2 GiB). It is read
 * as a whole.
 */
export const MAX_INDEX_BYTES = 2 * 1024 * 1024 * 1024 - 1;
/** The Go program stores the checkpoints of all layers here: 16 bytes each. */
export const MAX_INFO_BYTES = 256 * 1024 * 1024;

/** Values of ClipNode.NodeType. */
export const NodeType = { directory: 'dir', file: 'file', symlink: 'symlink' } as const;

/**
 * Go's os.FileMode, where its bits differ from st_mode's (pkg io/fs). The Go program stored it until 2024, or-ed with the S_IF* bits.
 */
export const GoMode = {
  directory: 2 ** 31,
  symlink: 1 << 27,
  setuid: 1 << 23,
  setgid: 1 << 22,
  sticky: 1 << 20,
} as const;

export const S_IFMT = 0o170000;
export const S_IFSOCK = 0o140000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;
export const S_ISUID = 0o4000;
export const S_ISGID = 0o2000;
export const S_ISVTX = 0o1000;
