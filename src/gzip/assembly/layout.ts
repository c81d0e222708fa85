// The fixed addresses in the kernel's linear memory. src/gzip/kernel.ts repeats those that it needs.
// Nothing is ever allocated; AssemblyScript's own static data (none of size) starts at 1024 (asconfig.json: memoryBase).
// Output and input are above; src/gzip/memory.ts decides where. Before the room for output there are 32 KiB of history, behind it at
// least 64 bytes that a fast copy may overwrite; behind the input at least 600 bytes that may be read and are never used.

/** i32 fields, see below. */
export const STATE: usize = 0x100;
/** Bits of the current dynamic block's header from HLIT on: at most 14 + 19·3 + 316·7 bits = 286 bytes. */
export const HEADER: usize = 0x2000;
/** Code lengths of the block being read: 19, then at most 286 + 30, then room for a repeat to overshoot. */
export const LENS: usize = 0x2200;
/** u16 counts by length, u16 offsets by length, u16 symbols by code. */
export const COUNTS: usize = 0x2400;
export const OFFSETS: usize = 0x2440;
export const SORTED: usize = 0x2480;
/** The decoding table of the code length code: 128 u32 entries. */
export const PRECODE: usize = 0x2800;
/** The meaning of symbols: u32 for each of 288 literal/length symbols, then of 32 distance symbols, then of 19 code lengths. */
export const LITLEN_RESULTS: usize = 0x2a00;
export const DIST_RESULTS: usize = 0x2f00;
export const PRECODE_RESULTS: usize = 0x2f80;
/** Swizzle patterns and strides for copies closer than 16 bytes: 16 × v128, 16 × u8. */
export const PATTERNS: usize = 0x3000;
export const STRIDES: usize = 0x3100;
/** The decoding tables, u32 entries. */
export const LITLEN: usize = 0x4000;
export const DIST: usize = 0xa000;
/** One byte for each byte of the window: referenced or not. */
export const MARKS: usize = 0x10000;
/** The window as it was at the checkpoint being tracked. */
export const WINDOW: usize = 0x18000;
export const HISTORY: usize = 32768;

// Fields of STATE.
/** Address of the next unread bit: a byte's, times eight, and 0 to 7. Memory ends below 512 MiB. */
export const BIT_POS: usize = STATE;
/** Address behind the input. */
export const IN_END: usize = STATE + 4;
/** Address of the next byte of output, and the address to stop at. */
export const OUT_POS: usize = STATE + 8;
export const OUT_LIMIT: usize = STATE + 12;
/** Lowest address a back-reference may reach. */
export const HIST_LOW: usize = STATE + 16;
export const MODE: usize = STATE + 20;
/** 1 within the last block of a deflate stream. */
export const LAST: usize = STATE + 24;
/** Bytes left of a stored block. */
export const STORED_LEFT: usize = STATE + 28;
/** A back-reference cut short by OUT_LIMIT: bytes left, distance. */
export const PENDING_LENGTH: usize = STATE + 32;
export const PENDING_DISTANCE: usize = STATE + 36;
/** Length of the data at HEADER, in bits. */
export const HEADER_BITS: usize = STATE + 40;
/** 1 while references below TRACK_POS are marked. */
export const TRACKING: usize = STATE + 44;
/** Address of the checkpoint being tracked. */
export const TRACK_POS: usize = STATE + 48;
/** 1 when the tables at LITLEN and DIST are those of the fixed codes. */
export const TABLES_FIXED: usize = STATE + 52;

/** Before a block's header, or, when LAST is set, after the deflate stream. */
export const MODE_BOUNDARY: i32 = 0;
export const MODE_STORED: i32 = 1;
export const MODE_FIXED: i32 = 2;
export const MODE_DYNAMIC: i32 = 3;

// Results of run(). Errors from 16 on; their texts are in src/gzip/format.ts.
export const NEED_INPUT: i32 = 0;
export const OUT_FULL: i32 = 1;
export const DONE: i32 = 2;
/** Internal: go on. */
export const CONTINUE: i32 = 3;
export const BAD_BLOCK_TYPE: i32 = 16;
export const BAD_STORED_LENGTH: i32 = 17;
export const TOO_MANY_CODES: i32 = 18;
export const BAD_PRECODE: i32 = 19;
export const BAD_REPEAT: i32 = 20;
export const NO_END_OF_BLOCK: i32 = 21;
export const BAD_LITLEN_CODE: i32 = 22;
export const BAD_DIST_CODE: i32 = 23;
export const BAD_LITLEN_SYMBOL: i32 = 24;
export const BAD_DIST_SYMBOL: i32 = 25;
export const TOO_FAR_BACK: i32 = 26;
