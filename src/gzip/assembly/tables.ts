// Decoding tables (RFC 1951 §3.2.2). A table has 2^bits root entries, indexed by the next bits of the stream, followed by
// subtables for the codewords longer than that.
//
// Entry, 32 bits:
//   all        0..5   bits to consume: codeword, and for lengths and distances the extra bits too; for a pointer, the root's bits
//   literal    31     set;  8..15 the byte
//   length,    8..13  bits of the codeword alone, plus 2 (see fast.ts);  16..30 base value
//   distance
//   exception  14     set; 15 clear: pointer to a subtable: 8..13 its bits, 16..30 its index
//                          15 set: 16 clear: end of block, 16 set: no such code
import {
  COUNTS, DIST, DIST_RESULTS, LENS, LITLEN, LITLEN_RESULTS, OFFSETS, PATTERNS, PRECODE_RESULTS, SORTED, STRIDES, TABLES_FIXED,
} from './layout';

export const LITLEN_BITS: u32 = 11;
export const DIST_BITS: u32 = 9;
export const LITERAL: u32 = 0x80000000;
export const EXCEPTION: u32 = 0x4000;
/** With EXCEPTION: not a pointer. */
export const FINAL: u32 = 0x8000;
export const INVALID: u32 = EXCEPTION | FINAL | 0x10000;

/** Fills the constant tables: RFC 1951 §3.2.5. */
export function initialize(): void {
  for (let symbol: u32 = 0; symbol < 256; symbol++) store<u32>(LITLEN_RESULTS + (symbol << 2), LITERAL | (symbol << 8));
  store<u32>(LITLEN_RESULTS + (256 << 2), EXCEPTION | FINAL);
  let base: u32 = 3;
  for (let symbol: u32 = 257; symbol < 285; symbol++) {
    const extra: u32 = symbol < 265 ? 0 : (symbol - 261) >> 2;
    store<u32>(LITLEN_RESULTS + (symbol << 2), (base << 16) | extra);
    base += 1 << extra;
  }
  store<u32>(LITLEN_RESULTS + (285 << 2), 258 << 16);
  store<u32>(LITLEN_RESULTS + (286 << 2), INVALID);
  store<u32>(LITLEN_RESULTS + (287 << 2), INVALID);
  base = 1;
  for (let symbol: u32 = 0; symbol < 30; symbol++) {
    const extra: u32 = symbol < 4 ? 0 : (symbol - 2) >> 1;
    store<u32>(DIST_RESULTS + (symbol << 2), (base << 16) | extra);
    base += 1 << extra;
  }
  store<u32>(DIST_RESULTS + (30 << 2), INVALID);
  store<u32>(DIST_RESULTS + (31 << 2), INVALID);
  for (let symbol: u32 = 0; symbol < 19; symbol++) store<u32>(PRECODE_RESULTS + (symbol << 2), symbol << 16);
  for (let distance: u32 = 1; distance < 16; distance++) {
    for (let i: u32 = 0; i < 16; i++) store<u8>(PATTERNS + (distance << 4) + i, <u8>(i % distance));
    store<u8>(STRIDES + distance, <u8>(16 - (16 % distance)));
  }
}

/** The entry for a symbol with a codeword of `length` bits. */
// @ts-ignore: decorator
@inline
function entryFor(results: usize, symbol: u32, length: u32): u32 {
  const result = load<u32>(results + (symbol << 2));
  return result + length + (<i32>result < 0 ? 0 : (length + 2) << 8);
}

/**
 * Builds a table from `count` code lengths at `lens`. False when the code is over-subscribed or incomplete; as in zlib, no
 * code at all and a single code of one bit are complete enough (unless `complete`), and the bit patterns without a code are
 * INVALID.
 */
export function build(lens: usize, count: u32, results: usize, table: usize, rootBits: u32, complete: bool): bool {
  memory.fill(COUNTS, 0, 32);
  for (let i: u32 = 0; i < count; i++) {
    const at = COUNTS + (<u32>load<u8>(lens + i) << 1);
    store<u16>(at, load<u16>(at) + 1);
  }
  let left: i32 = 1;
  let offset: u32 = load<u16>(COUNTS);
  const first = offset;
  store<u16>(OFFSETS, 0);
  for (let length: u32 = 1; length < 16; length++) {
    const n = <u32>load<u16>(COUNTS + (length << 1));
    left = (left << 1) - <i32>n;
    if (left < 0) return false;
    store<u16>(OFFSETS + (length << 1), <u16>offset);
    offset += n;
  }
  for (let i: u32 = 0; i < count; i++) {
    const at = OFFSETS + (<u32>load<u8>(lens + i) << 1);
    const position = <u32>load<u16>(at);
    store<u16>(at, <u16>(position + 1));
    store<u16>(SORTED + (position << 1), <u16>i);
  }
  if (left > 0) {
    const used = count - first;
    if (complete || used > 1 || (used == 1 && load<u16>(COUNTS + 2) != 1)) return false;
    let even = INVALID;
    if (used == 1) even = entryFor(results, load<u16>(SORTED + (first << 1)), 1);
    for (let i: u32 = 0; i < 1 << rootBits; i += 2) {
      store<u32>(table + (i << 2), even);
      store<u32>(table + (i << 2), INVALID, 4);
    }
    return true;
  }

  // Codewords in order; `code` is the codeword bit-reversed, as it is found in the stream. The root grows by doubling: the
  // entries for codewords of up to n bits repeat for either value of bit n.
  let next: usize = SORTED + (first << 1);
  let code: u32 = 0;
  let size: u32 = 1;
  let length: u32 = 0;
  while (length < rootBits) {
    length++;
    memory.copy(table + (size << 2), table, size << 2);
    size <<= 1;
    let n = <u32>load<u16>(COUNTS + (length << 1));
    while (n > 0) {
      n--;
      store<u32>(table + (code << 2), entryFor(results, load<u16>(next), length));
      next += 2;
      if (code == size - 1) {
        // The last codeword: all ones.
        while (length < rootBits) {
          length++;
          memory.copy(table + (size << 2), table, size << 2);
          size <<= 1;
        }
        return true;
      }
      const bit: u32 = 1 << (31 - clz<u32>(code ^ (size - 1)));
      code = (code & (bit - 1)) | bit;
    }
  }

  // The longer ones: a subtable for each root index they share.
  const rootMask: u32 = (1 << rootBits) - 1;
  let end: u32 = 1 << rootBits;
  let start: u32 = 0;
  let prefix: u32 = 0xffffffff;
  let bits: u32 = 0;
  while (true) {
    length++;
    let n = <u32>load<u16>(COUNTS + (length << 1));
    const stride: u32 = 1 << (length - rootBits);
    while (n > 0) {
      if ((code & rootMask) != prefix) {
        prefix = code & rootMask;
        start = end;
        // Just large enough for the codewords to come: those of this length, then the next ones, until they fill it.
        bits = length - rootBits;
        let filled: u32 = n;
        while (filled < 1 << bits) {
          bits++;
          filled = (filled << 1) + <u32>load<u16>(COUNTS + ((rootBits + bits) << 1));
        }
        end = start + (1 << bits);
        store<u32>(table + (prefix << 2), EXCEPTION | rootBits | (bits << 8) | (start << 16));
      }
      n--;
      const entry = entryFor(results, load<u16>(next), length - rootBits);
      next += 2;
      for (let i = code >> rootBits; i < 1 << bits; i += stride) store<u32>(table + ((start + i) << 2), entry);
      const ones: u32 = (1 << length) - 1;
      if (code == ones) return true;
      const bit: u32 = 1 << (31 - clz<u32>(code ^ ones));
      code = (code & (bit - 1)) | bit;
    }
  }
}

/** The fixed codes (RFC 1951 §3.2.6). */
export function buildFixed(): void {
  if (load<i32>(TABLES_FIXED)) return;
  memory.fill(LENS, 8, 144);
  memory.fill(LENS + 144, 9, 112);
  memory.fill(LENS + 256, 7, 24);
  memory.fill(LENS + 280, 8, 8);
  build(LENS, 288, LITLEN_RESULTS, LITLEN, LITLEN_BITS, true);
  memory.fill(LENS, 5, 32);
  build(LENS, 32, DIST_RESULTS, DIST, DIST_BITS, true);
  store<i32>(TABLES_FIXED, 1);
}
