// Block headers (RFC 1951 §3.2.3 to §3.2.7). Reading one changes no state until all of it has come.
import {
  BAD_BLOCK_TYPE, BAD_DIST_CODE, BAD_LITLEN_CODE, BAD_PRECODE, BAD_REPEAT, BAD_STORED_LENGTH, BIT_POS, CONTINUE, DIST,
  DIST_RESULTS, HEADER, HEADER_BITS, IN_END, LAST, LENS, LITLEN, LITLEN_RESULTS, MODE, MODE_DYNAMIC, MODE_FIXED,
  MODE_STORED, NEED_INPUT, NO_END_OF_BLOCK, PRECODE, PRECODE_RESULTS, STORED_LEFT, TABLES_FIXED, TOO_MANY_CODES,
} from './layout';
import { build, buildFixed, DIST_BITS, LITLEN_BITS } from './tables';

/** At least 57 bits from bit position `pos` on; past the end of the input they mean nothing. */
// @ts-ignore: decorator
@inline
export function peek(pos: u32): u64 {
  return load<u64>(pos >> 3) >>> (<u64>(pos & 7));
}

/** An error, unless it depends on bits that have not come yet. */
// @ts-ignore: decorator
@inline
function refuse(error: i32, pos: u32, end: u32): i32 {
  return pos > end ? NEED_INPUT : error;
}

/** Reads the block header at BIT_POS and sets MODE. */
export function readBlockHeader(): i32 {
  const end = load<u32>(IN_END) << 3;
  let pos = load<u32>(BIT_POS);
  if (pos + 3 > end) return NEED_INPUT;
  const bits = <u32>peek(pos);
  pos += 3;
  const type = (bits >> 1) & 3;
  if (type == 0) {
    pos = (pos + 7) & ~7;
    if (pos + 32 > end) return NEED_INPUT;
    const lengths = load<u32>(pos >> 3);
    if ((lengths & 0xffff) != (~lengths >> 16)) return BAD_STORED_LENGTH;
    store<u32>(STORED_LEFT, lengths & 0xffff);
    store<u32>(BIT_POS, pos + 32);
    store<i32>(MODE, MODE_STORED);
  } else if (type == 1) {
    buildFixed();
    store<u32>(BIT_POS, pos);
    store<i32>(MODE, MODE_FIXED);
  } else if (type == 2) {
    const status = readCodes(pos, end);
    if (status != CONTINUE) return status;
    saveHeader(pos);
    store<i32>(MODE, MODE_DYNAMIC);
  } else {
    return BAD_BLOCK_TYPE;
  }
  store<i32>(LAST, bits & 1);
  return CONTINUE;
}

/** Reads the code lengths of a dynamic block from bit `pos` on (HLIT) and builds the tables. Sets BIT_POS on success. */
export function readCodes(from: u32, end: u32): i32 {
  let pos = from;
  if (pos + 14 > end) return NEED_INPUT;
  let bits = peek(pos);
  const litlens = <u32>(bits & 31) + 257;
  const dists = <u32>((bits >>> 5) & 31) + 1;
  const precodes = <u32>((bits >>> 10) & 15) + 4;
  if (litlens > 286 || dists > 30) return TOO_MANY_CODES;
  pos += 14;
  if (pos + precodes * 3 > end) return NEED_INPUT;
  store<u64>(LENS, 0);
  store<u64>(LENS + 8, 0);
  store<u64>(LENS + 16, 0);
  // At most 57 bits: one load. The order of RFC 1951 §3.2.7, 5 bits each: 16 17 18 0 8 7 9 6 10 5 11 4 | 12 3 13 2 14 1 15.
  bits = peek(pos);
  for (let i: u32 = 0; i < precodes; i++) {
    const symbol: u64 = i < 12 ? (<u64>0x22caa324e804a30 >>> (<u64>i * 5)) & 31 : (<u64>0x3c2e1346c >>> (<u64>(i - 12) * 5)) & 31;
    store<u8>(LENS + <usize>symbol, <u8>(bits & 7));
    bits >>>= 3;
  }
  pos += precodes * 3;
  if (!build(LENS, 19, PRECODE_RESULTS, PRECODE, 7, true)) return BAD_PRECODE;

  const total = litlens + dists;
  let n: u32 = 0;
  let previous: u32 = 0xff;
  while (n < total) {
    bits = peek(pos);
    const entry = load<u32>(PRECODE + (<usize>(bits & 127) << 2));
    const length = entry & 15;
    const symbol = entry >> 16;
    bits >>>= <u64>length;
    pos += length;
    if (symbol < 16) {
      store<u8>(LENS + n, <u8>symbol);
      n++;
      previous = symbol;
      continue;
    }
    let repeat: u32;
    if (symbol == 16) {
      if (n == 0) return refuse(BAD_REPEAT, pos, end);
      repeat = 3 + (<u32>bits & 3);
      pos += 2;
    } else {
      previous = 0;
      if (symbol == 17) {
        repeat = 3 + (<u32>bits & 7);
        pos += 3;
      } else {
        repeat = 11 + (<u32>bits & 127);
        pos += 7;
      }
    }
    memory.fill(LENS + n, <u8>previous, repeat);
    n += repeat;
  }
  if (pos > end) return NEED_INPUT;
  if (n > total) return BAD_REPEAT;
  if (load<u8>(LENS + 256) == 0) return NO_END_OF_BLOCK;
  store<i32>(TABLES_FIXED, 0);
  if (!build(LENS, litlens, LITLEN_RESULTS, LITLEN, LITLEN_BITS, false)) return BAD_LITLEN_CODE;
  if (!build(LENS + litlens, dists, DIST_RESULTS, DIST, DIST_BITS, false)) return BAD_DIST_CODE;
  store<u32>(BIT_POS, pos);
  return CONTINUE;
}

/** Copies the bits [from, BIT_POS) to HEADER, starting at bit 0, the last byte padded with zeros. */
function saveHeader(from: u32): void {
  const length = load<u32>(BIT_POS) - from;
  store<u32>(HEADER_BITS, length);
  let i: u32 = 0;
  for (; i < length; i += 32) store<u32>(HEADER + (i >> 3), <u32>peek(from + i));
  const spare = length & 7;
  if (spare) {
    const last = HEADER + (length >> 3);
    store<u8>(last, <u8>(<u32>load<u8>(last) & ((<u32>1 << spare) - 1)));
  }
}
