// One symbol at a time, every bound checked: the edges of the input, of the output, and single bytes of either.
import {
  BAD_DIST_SYMBOL, BAD_LITLEN_SYMBOL, BIT_POS, CONTINUE, DIST, HIST_LOW, IN_END, LITLEN, MODE, MODE_BOUNDARY, NEED_INPUT, OUT_FULL,
  OUT_LIMIT, OUT_POS, PENDING_DISTANCE, PENDING_LENGTH, TOO_FAR_BACK, TRACKING,
} from './layout';
import { IN_MARGIN, mark, OUT_MARGIN } from './fast';
import { peek } from './header';
import { DIST_BITS, EXCEPTION, FINAL, LITLEN_BITS } from './tables';

/** Whether the fast loop can run. */
export function roomy(): bool {
  return (
    (load<usize>(BIT_POS) >> 3) + IN_MARGIN + 8 <= load<usize>(IN_END) && load<usize>(OUT_POS) + OUT_MARGIN <= load<usize>(OUT_LIMIT)
  );
}

/** Writes as much of the pending back-reference as there is room for. */
export function copyPending(): void {
  let out = load<usize>(OUT_POS);
  const distance = load<usize>(PENDING_DISTANCE);
  const wanted = load<usize>(PENDING_LENGTH);
  const n = min<usize>(wanted, load<usize>(OUT_LIMIT) - out);
  if (load<i32>(TRACKING)) mark(out - distance, n);
  for (let i: usize = 0; i < n; i++, out++) store<u8>(out, load<u8>(out - distance));
  store<usize>(OUT_POS, out);
  store<usize>(PENDING_LENGTH, wanted - n);
}

/** Decodes symbols until the fast loop may take over or the block ends (CONTINUE), or input is missing or wrong. */
export function careful(): i32 {
  const end = load<u32>(IN_END) << 3;
  do {
    if (load<usize>(OUT_POS) == load<usize>(OUT_LIMIT)) return OUT_FULL;
    let pos = load<u32>(BIT_POS);
    // At most 15 + 5 + 15 + 13 bits are used of the 57 or more.
    let bits = peek(pos);
    let entry = load<u32>(LITLEN + (<usize>(bits & ((1 << LITLEN_BITS) - 1)) << 2));
    if ((entry & (EXCEPTION | FINAL)) == EXCEPTION && <i32>entry >= 0) {
      pos += LITLEN_BITS;
      bits >>>= LITLEN_BITS;
      entry = load<u32>(LITLEN + ((<usize>(entry >> 16) + <usize>(bits & ((<u64>1 << ((entry >> 8) & 63)) - 1))) << 2));
    }
    const used = entry & 63;
    pos += used;
    if (<i32>entry < 0) {
      if (pos > end) return NEED_INPUT;
      const out = load<usize>(OUT_POS);
      store<u8>(out, <u8>(entry >> 8));
      store<usize>(OUT_POS, out + 1);
      store<u32>(BIT_POS, pos);
      continue;
    }
    if (entry & EXCEPTION) {
      if (pos > end) return NEED_INPUT;
      if (entry & 0x10000) return BAD_LITLEN_SYMBOL;
      store<u32>(BIT_POS, pos);
      store<i32>(MODE, MODE_BOUNDARY);
      return CONTINUE;
    }
    const length = (entry >> 16) + <u32>((bits & ((<u64>1 << used) - 1)) >>> (<u64>(((entry >> 8) & 63) - 2)));
    bits >>>= <u64>used;
    let code = load<u32>(DIST + (<usize>(bits & ((1 << DIST_BITS) - 1)) << 2));
    if ((code & (EXCEPTION | FINAL)) == EXCEPTION) {
      pos += DIST_BITS;
      bits >>>= DIST_BITS;
      code = load<u32>(DIST + ((<usize>(code >> 16) + <usize>(bits & ((<u64>1 << ((code >> 8) & 63)) - 1))) << 2));
    }
    pos += code & 63;
    if (pos > end) return NEED_INPUT;
    if (code & EXCEPTION) return BAD_DIST_SYMBOL;
    const distance = (code >> 16) + <u32>((bits & ((<u64>1 << (code & 63)) - 1)) >>> (<u64>(((code >> 8) & 63) - 2)));
    if (load<usize>(OUT_POS) - load<usize>(HIST_LOW) < distance) return TOO_FAR_BACK;
    store<u32>(BIT_POS, pos);
    store<u32>(PENDING_LENGTH, length);
    store<u32>(PENDING_DISTANCE, distance);
    copyPending();
  } while (!roomy());
  return CONTINUE;
}
