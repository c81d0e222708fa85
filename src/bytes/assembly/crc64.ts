// CRC-64 of the data that JavaScript puts into the one page of memory, from address 0 on: see ../crc64.ts.

/** Words of 16 bytes that a folded word reaches behind itself. */
const REACH: usize = 64 * 16;

/**
 * Takes the data up to `end` into the register. In a reflected register bit 63 is x^0, so a multiplication by x is a shift to the right.
 *
 * Long data is first made short, in place: x^64 ≡ x^4 + x^3 + x + 1, and squared seven times x^8192 ≡ x^512 + x^384 + x^128 + 1, so that a
 * word of 128 bits may be added to those that are 60, 61, 63 and 64 words behind it instead.
 *
 * The rest is taken in by words of 64 bits with four shifted copies of the register; the up to four bits that leave it on the right come
 * in again on the left in the same way.
 */
export function update(end: usize, register: u64): u64 {
  let at: usize = 0;
  let crc = register;
  if (REACH + 16 <= end) {
    // A register is the same as these bits added to the first bytes.
    store<u64>(0, load<u64>(0) ^ crc);
    crc = 0;
    for (; at + REACH + 16 <= end; at += 16) {
      const word = v128.load(at);
      v128.store(at + 60 * 16, v128.xor(v128.load(at + 60 * 16), word));
      v128.store(at + 61 * 16, v128.xor(v128.load(at + 61 * 16), word));
      v128.store(at + 63 * 16, v128.xor(v128.load(at + 63 * 16), word));
      v128.store(at + 64 * 16, v128.xor(v128.load(at + 64 * 16), word));
    }
  }
  for (; at + 8 <= end; at += 8) {
    const word = crc ^ load<u64>(at);
    // What the shifts by 1, 3 and 4 push out on the right.
    const out = (word << 63) ^ (word << 61) ^ (word << 60);
    crc = word ^ (word >> 1) ^ (word >> 3) ^ (word >> 4) ^ out ^ (out >> 1) ^ (out >> 3) ^ (out >> 4);
  }
  for (; at < end; at++) {
    // The same for one byte: it leaves on the right, and x^64 times it comes in on the left, where its shifted bits still fit.
    const byte = ((crc ^ <u64>load<u8>(at)) & 0xff) << 56;
    crc = (crc >> 8) ^ byte ^ (byte >> 1) ^ (byte >> 3) ^ (byte >> 4);
  }
  return crc;
}
