/** Layout and constants of gzip members (RFC 1952) and of our checkpoint states. */

// RFC 1952 §2.3.1
export const ID1 = 0x1f;
export const ID2 = 0x8b;
export const CM_DEFLATE = 8;
export const FHCRC = 0x02;
export const FEXTRA = 0x04;
export const FNAME = 0x08;
export const FCOMMENT = 0x10;
export const RESERVED_FLAGS = 0xe0;
/** ID1, ID2, CM, FLG, MTIME, XFL, OS. */
export const FIXED_HEADER_BYTES = 10;
/** CRC32, ISIZE. */
export const TRAILER_BYTES = 8;

/** How far back a deflate back-reference reaches (RFC 1951 §2). */
export const WINDOW_BYTES = 32768;
/** Longest back-reference (RFC 1951 §3.2.5). */
export const MAX_MATCH = 258;

// A checkpoint header: kind (below); the 24 bits of a pending copy; then for a stored block the u16 LE count of bytes left, for
// a dynamic block its header's bits from HLIT on, from bit 0 of the first byte, the last byte padded with zeros.
//
// The place of a checkpoint in a deflate stream: bits 0-1 of a checkpoint header's first byte, and the kernel's MODE.
/** Before a block header; with LAST_BLOCK, before the member's trailer. */
export const MODE_BOUNDARY = 0;
export const MODE_STORED = 1;
export const MODE_FIXED = 2;
export const MODE_DYNAMIC = 3;
/** The block at hand is the member's last. */
export const LAST_BLOCK = 0x04;
/** A back-reference straddles the checkpoint: 24 bits follow, 15 of distance - 1, then 9 of remaining length - 1. */
export const PENDING_COPY = 0x08;

/** A dynamic block header from HLIT on: 14 + 19·3 + 316·7 bits (RFC 1951 §3.2.7; every code length takes at most 7 bits). */
export const MAX_BLOCK_HEADER_BYTES = 286;
/** Kind, pending copy, block header. */
export const MAX_CHECKPOINT_HEADER_BYTES = 1 + 3 + MAX_BLOCK_HEADER_BYTES;

/** Results of the kernel's run(); above 15 they are errors. */
export const NEED_INPUT = 0;
export const OUT_FULL = 1;
export const DONE = 2;
export const CONTINUE = 3;

const KERNEL_ERRORS: Readonly<Record<number, string>> = {
  16: 'block type 3 is reserved (RFC 1951 §3.2.3)',
  17: "a stored block's length does not match its complement (RFC 1951 §3.2.4)",
  18: 'more than 286 literal/length or 30 distance codes (RFC 1951 §3.2.7)',
  19: 'the code length code is over-subscribed or incomplete',
  20: 'a code length repeat has nothing to repeat or runs past the end',
  21: 'the block has no code for its end',
  22: 'the literal/length code is over-subscribed or incomplete',
  23: 'the distance code is over-subscribed or incomplete',
  24: 'an unused literal/length code',
  25: 'an unused distance code',
  26: 'a distance reaches back before the start of the data',
};

export function kernelError(status: number): string {
  return KERNEL_ERRORS[status] ?? `the inflate kernel failed with status ${status}`;
}
