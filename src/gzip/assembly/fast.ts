// The fast loop: decodes symbols without checking bounds, while both input and output have room for the most that one round may
// use. careful.ts does the rest.
import { BIT_POS, DIST, HIST_LOW, IN_END, LITLEN, MARKS, OUT_LIMIT, OUT_POS, PATTERNS, STRIDES, TRACK_POS } from './layout';
import { CONTINUE, HISTORY, BAD_DIST_SYMBOL, BAD_LITLEN_SYMBOL, MODE, MODE_BOUNDARY, TOO_FAR_BACK } from './layout';
import { DIST_BITS, EXCEPTION, FINAL, LITLEN_BITS } from './tables';

/** A round refills three times at most, 7 bytes each, and the last load reads 8. */
export const IN_MARGIN: usize = 32;
/** A round writes three literals, then 258 bytes by steps of 16 that may overshoot. */
export const OUT_MARGIN: usize = 320;

const LITLEN_MASK: u32 = (1 << LITLEN_BITS) - 1;
const DIST_MASK: u32 = (1 << DIST_BITS) - 1;

/** Notes that `length` bytes from `source` on were referenced, as far as they lie before the checkpoint. */
export function mark(source: usize, length: usize): void {
  const checkpoint = load<usize>(TRACK_POS);
  if (source >= checkpoint) return;
  const n = min<usize>(length, checkpoint - source);
  const at = MARKS + HISTORY + source - checkpoint;
  if (n >= 8) {
    // Whole steps, then one that ends with the last byte.
    for (let i: usize = 0; i + 8 < n; i += 8) store<u64>(at + i, -1);
    store<u64>(at + n - 8, -1);
  } else {
    for (let i: usize = 0; i < n; i++) store<u8>(at + i, 0xff);
  }
}

// @ts-ignore: decorator
@inline
function litlenEntry(bits: u64): u64 {
  return load<u32>(<usize>(<u32>bits & (LITLEN_MASK << 2)), LITLEN);
}

/** The low `count` bits of those to come, and the two below them. */
// @ts-ignore: decorator
@inline
function mask(bits: u64, count: u64): u64 {
  return bits & ((<u64>4 << count) - 1);
}

/**
 * Runs until a margin is reached (CONTINUE; also at the end of the block), or an error.
 * TRACK is u8 to mark what is referenced before the checkpoint, u16 not to: the compiler makes two loops of this one.
 */
export function fast<TRACK>(): i32 {
  const inLimit = load<usize>(IN_END) - IN_MARGIN;
  const outLimit = load<usize>(OUT_LIMIT) - OUT_MARGIN;
  const low = load<usize>(HIST_LOW);
  const start = load<u32>(BIT_POS);
  let input: usize = start >> 3;
  let out = load<usize>(OUT_POS);
  // `bits` holds the bits to come from bit 2 on; the two below are spent ones. So the bits that index a table are the byte
  // offset of its entry once they are masked: that saves a shift on the critical path (load, mask, shift out, load …; docs/benchmarks.md,
  // "Why these constants"). `left` counts them, the two included, in its low 6 bits; its other bits are ignored. Bits above the
  // count may be set already: they are those that the next refill puts there. After a refill there are 54 or more to come: two
  // literals or a subtable's one, and a length (15 + 5), or three literals, need no other refill.
  let bits: u64 = load<u64>(input) >>> (<u64>(start & 7)) << 2;
  let left: u64 = <u64>(58 - (start & 7));
  input += 7;
  let status = CONTINUE;

  let entry = litlenEntry(bits);
  do {
    bits |= load<u64>(input) << left;
    input += 7 - (<usize>(left >>> 3) & 7);
    left |= 56;

    if (<i32>entry < 0) {
      bits >>>= entry;
      left -= entry;
      store<u8>(out, <u8>(entry >>> 8));
      out++;
      entry = litlenEntry(bits);
      if (<i32>entry < 0) {
        bits >>>= entry;
        left -= entry;
        store<u8>(out, <u8>(entry >>> 8));
        out++;
        entry = litlenEntry(bits);
        if (<i32>entry < 0) {
          bits >>>= entry;
          left -= entry;
          store<u8>(out, <u8>(entry >>> 8));
          out++;
          entry = litlenEntry(bits);
          continue;
        }
      }
    }
    if (<u32>entry & EXCEPTION) {
      if (!(<u32>entry & FINAL)) {
        bits >>>= <u64>LITLEN_BITS;
        left -= <u64>LITLEN_BITS;
        entry = load<u32>((<usize>(entry >>> 16) << 2) + (<usize>mask(bits, (entry >>> 8) & 63) & ~3), LITLEN);
        if (<i32>entry < 0) {
          bits >>>= entry;
          left -= entry;
          store<u8>(out, <u8>(entry >>> 8));
          out++;
          entry = litlenEntry(bits);
          continue;
        }
      }
      if (<u32>entry & EXCEPTION) {
        if (<u32>entry & 0x10000) {
          status = BAD_LITLEN_SYMBOL;
        } else {
          bits >>>= entry;
          left -= entry;
          store<i32>(MODE, MODE_BOUNDARY);
        }
        break;
      }
    }
    const length = <usize>(entry >>> 16) + <usize>(mask(bits, entry) >>> (<u64>(entry >>> 8)));
    bits >>>= entry;
    left -= entry;
    if ((left & 63) < 30) {
      bits |= load<u64>(input) << left;
      input += 7 - (<usize>(left >>> 3) & 7);
      left |= 56;
    }
    let code: u64 = load<u32>(<usize>(<u32>bits & (DIST_MASK << 2)), DIST);
    if (<u32>code & EXCEPTION) {
      if (!(<u32>code & FINAL)) {
        bits >>>= <u64>DIST_BITS;
        left -= <u64>DIST_BITS;
        code = load<u32>((<usize>(code >>> 16) << 2) + (<usize>mask(bits, (code >>> 8) & 63) & ~3), DIST);
      }
      if (<u32>code & EXCEPTION) {
        status = BAD_DIST_SYMBOL;
        break;
      }
    }
    const distance = <usize>(code >>> 16) + <usize>(mask(bits, code) >>> (<u64>(code >>> 8)));
    bits >>>= code;
    left -= code;
    if (out - low < distance) {
      status = TOO_FAR_BACK;
      break;
    }
    // The next round refills as it starts; its first entry must not wait for that.
    if ((left & 63) < <u64>LITLEN_BITS + 2) {
      bits |= load<u64>(input) << left;
      input += 7 - (<usize>(left >>> 3) & 7);
      left |= 56;
    }
    entry = litlenEntry(bits);

    let source = out - distance;
    if (sizeof<TRACK>() == 1) mark(source, length);
    const end = out + length;
    if (distance >= 16) {
      v128.store(out, v128.load(source));
      // Always 32 bytes at once: a branch on 16 could not be predicted.
      v128.store(out, v128.load(source, 16), 16);
      if (length > 32) {
        out += 32;
        source += 32;
        do {
          v128.store(out, v128.load(source));
          out += 16;
          source += 16;
        } while (out < end);
      }
    } else {
      const pattern = v128.swizzle(v128.load(source), v128.load(distance << 4, PATTERNS));
      const stride = <usize>load<u8>(distance, STRIDES);
      do {
        v128.store(out, pattern);
        out += stride;
      } while (out < end);
    }
    out = end;
  } while (input <= inLimit && out <= outLimit);

  store<u32>(BIT_POS, (<u32>input << 3) - <u32>(left & 63) + 2);
  store<usize>(OUT_POS, out);
  return status;
}
