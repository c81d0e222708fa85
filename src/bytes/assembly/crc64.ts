// A message for CRC-64 made shorter, in place, in the one page of memory that JavaScript fills: see ../crc64.ts.

/**
 * Folds all but the last 1 KiB of the message that lies from address 0 to `end`: x^8192 ≡ x^512 + x^384 + x^128 + 1, so a word of 128 bits
 * may be added to those that are 60, 61, 63 and 64 words behind it instead.
 * @returns where the rest begins, which has the same sum as the whole
 */
export function fold(end: usize): usize {
  let at: usize = 0;
  for (; at + 65 * 16 <= end; at += 16) {
    const word = v128.load(at);
    v128.store(at + 60 * 16, v128.xor(v128.load(at + 60 * 16), word));
    v128.store(at + 61 * 16, v128.xor(v128.load(at + 61 * 16), word));
    v128.store(at + 63 * 16, v128.xor(v128.load(at + 63 * 16), word));
    v128.store(at + 64 * 16, v128.xor(v128.load(at + 64 * 16), word));
  }
  return at;
}
