// Zstandard frames: RFC 8878.

/** §3.1.1 Magic_Number, little-endian. */
export const MAGIC = 0xfd2fb528;
/** §3.1.2: sixteen magic numbers, 0x184D2A50 to 0x184D2A5F. */
export const SKIPPABLE_MAGIC = 0x184d2a50;
export const SKIPPABLE_MASK = 0xfffffff0;
/** §3.1.1.1.1 Frame_Header_Descriptor. */
export const RESERVED_BIT = 0x08;
export const CHECKSUM_FLAG = 0x04;
export const SINGLE_SEGMENT_FLAG = 0x20;
/** §3.1.1.1.1.1 Frame_Content_Size_Flag → bytes of Frame_Content_Size; for flag 0 one byte if Single_Segment_Flag is set. */
export const CONTENT_SIZE_BYTES = [0, 2, 4, 8] as const;
/** §3.1.1.1.1.6 Dictionary_ID_Flag → bytes of Dictionary_ID. */
export const DICTIONARY_ID_BYTES = [0, 1, 2, 4] as const;
/** Magic, descriptor, window descriptor, dictionary id, content size. */
export const MAX_FRAME_HEADER = 4 + 1 + 1 + 4 + 8;
/** §3.1.1.2 Block_Header. */
export const BLOCK_HEADER_BYTES = 3;
export const BLOCK_RAW = 0;
export const BLOCK_RLE = 1;
export const BLOCK_RESERVED = 3;
/** §3.1.1.2.4 Block_Maximum_Size is the window's size, and at most this. */
export const MAX_BLOCK_BYTES = 128 * 1024;
export const CHECKSUM_BYTES = 4;

/**
 * The largest window that is taken: windowLog 27, the limit of `zstd -d` without flags. A decoder needs the window as memory.
 * docs/internals/decisions/0007-zstd-windows-of-128-mib.md says why it is not the 512 MiB that containerd takes.
 */
export const MAX_WINDOW_BYTES = 128 * 1024 * 1024;

/** lib/zstd_errors.h: codes are stable from 1.3.1 on; functions return them negated. */
export const MAX_ERROR_CODE = 120;
export const ERROR_NAMES: Readonly<Record<number, string>> = {
  10: 'unknown magic number',
  14: 'unsupported frame parameter',
  16: 'window too large',
  20: 'corrupt block',
  22: 'content checksum does not match',
  24: 'corrupt literals header',
  30: 'corrupt dictionary',
  32: 'needs a dictionary',
  44: 'table too large',
  46: 'symbol too large',
  64: 'not enough memory',
  70: 'output larger than stated',
  72: 'wrong size of input',
};
