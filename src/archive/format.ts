/** The `.clip` container, version 3: layout and constants only. docs/format.md describes it. */

/** Shared with version 1: 0x89 "CLIP" CR LF SUB LF. Catches text-mode transfers like PNG's (PNG §5.2). */
export const MAGIC: Uint8Array = Uint8Array.of(0x89, 0x43, 0x4c, 0x49, 0x50, 0x0d, 0x0a, 0x1a, 0x0a);
/** 1 is the Go predecessor's. 2 had no digests of checkpoint states, so that equal span tables could stand for different bytes. */
export const VERSION = 3;

/**
 * Header, little-endian:
 *   0  magic 9        9  version u8       10  reserved u16 = 0      12  section count u32
 *  16  sha256 of bytes 0–15 followed by the section table           48  section table
 */
export const HEADER = {
  version: 9,
  reserved: 10,
  sectionCount: 12,
  sha256: 16,
  table: 48,
} as const;

/** kind u32, compression u32, offset u64, stored length u64, raw length u64, sha256 of the stored, sha256 of the raw bytes. */
export const SECTION_ENTRY_SIZE = 96;

/** Sections lie in this order, without gaps, from the end of the table to the end of the file. */
export const SectionKind = {
  image: 1,
  tree: 2,
  spans: 3,
  windowIndex: 4,
  windows: 5,
  hashes: 6,
  placement: 7,
  profile: 8,
  references: 9,
  /** In the indexes of single layers alone. */
  entries: 10,
  scan: 11,
} as const;
export type SectionName = keyof typeof SectionKind;
export const SECTION_NAMES = Object.keys(SectionKind) as readonly SectionName[];
export const REQUIRED_SECTIONS: readonly SectionName[] = ['image', 'tree', 'spans', 'windowIndex', 'windows'];
/**
 * The sections that decide the contents of a mount. Windows are covered by the digests of checkpoint states in the spans;
 * how they are stored depends on the zlib that wrote them.
 */
export const IDENTITY_SECTIONS: readonly SectionName[] = ['image', 'tree', 'spans', 'placement'];

export const Compression = { none: 0, deflate: 1 } as const;

/**
 * How long a deflated section may be: FREE_RAW_LENGTH bytes, and MAX_RATIO times its stored length beyond. A small archive must
 * not make a server allocate gigabytes, and deflate could pack 1,032 zeros into a byte. Real trees deflate to a quarter or less,
 * the most regular ones to a twentieth. What deflates better is stored as it is.
 */
export const MAX_RATIO = 32;
export const FREE_RAW_LENGTH = 1024 * 1024;

/**
 * Compressed bytes of each span of a layer that has several; a layer with fewer bytes has one span, which is all of its blob.
 * Whether a span can be read says whether its bytes have a certain SHA-256. If a span could be a byte, a user could make an
 * archive of a file or URL that only the server can read, and ask for its bytes one by one. 512: a megabyte of zeros deflates
 * to 1,016 bytes, so that no cut of a gzip layer at whole megabytes has to move.
 */
export const MIN_SPAN_BYTES = 512;
/** Output of a span: `--checkpoint 64`, the largest, and a zstd frame and block that end behind it. */
export const MAX_SPAN_OUTPUT = 128 * 1024 * 1024;
/**
 * Compressed bytes of a span: MAX_SPAN_OVERHEAD more than twice its output. Encoders stay far below: stored blocks add 5 bytes to
 * 64 KiB, and what follows a tar is mostly padding of some KiB.
 */
export const MAX_SPAN_OVERHEAD = 1024 * 1024;
/** Spans of all layers together: 256 GiB of layers at 1 MiB each. A span takes some 100 bytes of memory in a server. */
export const MAX_SPANS = 256 * 1024;

/** Raw bytes a section may have, so that a few bytes of archive cannot make a reader allocate gigabytes. */
export const MAX_RAW_LENGTH: Readonly<Record<SectionName, number>> = {
  image: 16 * 1024 * 1024, // registries refuse configs beyond 4 MiB
  tree: 0x7fff_fff0, // 128 B a file: 16 million files; offsets inside pass through int32 arithmetic
  spans: 32 * 1024 * 1024, // 120 bytes a span
  windowIndex: 1024 * 1024, // 3 bytes a span, and some
  windows: Number.MAX_SAFE_INTEGER, // never read as a whole
  hashes: 1024 * 1024 * 1024, // 34 bytes a file
  placement: 64 * 1024 * 1024, // 10 bytes an extent; 36 in memory
  profile: 64 * 1024 * 1024, // 3 bytes a span
  references: 32 * 1024 * 1024, // 12 bytes for each file that has any
  entries: 1024 * 1024 * 1024, // 100 bytes an entry
  scan: 64 * 1024 * 1024, // 100 bytes for each program, script and module
};

/** Docker and containerd stop at 127; overlayfs at 500. Device ids in the tree are 16 bits. */
export const MAX_LAYERS = 4096;

/** A window is 32 KiB and a deflate header at most 320 code lengths; deflated, no state comes near. */
export const MAX_CHECKPOINT_STATE = 64 * 1024;

/** Numbers of layer kinds in a span table. */
export const LAYER_KIND_CODE = { tar: 1, gzip: 2, zstd: 3, 'zstd-stream': 4, blocks: 5 } as const;

/** Numbers of profile sources in the profile section. */
export const PROFILE_SOURCE_CODE = { recorded: 1, static: 2 } as const;
