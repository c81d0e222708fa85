import { crc32 as zlibCrc32 } from 'node:zlib';

/** CRC-32 of RFC 1952 §8. `previous` continues an earlier sum. */
export const crc32: (data: Uint8Array, previous?: number) => number = zlibCrc32;

const CRC32C_TABLE = (() => {
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    let c = i;
    for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
    table[i] = c >>> 0;
  }
  return table;
})();

/** CRC-32C (Castagnoli, RFC 3720 §12.1) without the final inversion, as EROFS stores it, with seed ~0. */
export function crc32c(data: Uint8Array, seed = 0xffffffff): number {
  let c = seed >>> 0;
  for (let i = 0; i < data.length; i++) c = (c >>> 8) ^ CRC32C_TABLE[(c ^ data[i]!) & 0xff]!;
  return c >>> 0;
}

/** Product of two polynomials modulo the CRC-32 polynomial, both bit-reflected (bit 31 is x^0). */
function multiply(a: number, b: number): number {
  let product = 0;
  for (let bit = 0x80000000; bit !== 0; bit >>>= 1) {
    if (a & bit) product ^= b;
    b = b & 1 ? (b >>> 1) ^ 0xedb88320 : b >>> 1;
  }
  return product >>> 0;
}

/** CRC-32 of A‖B from crc32(A), crc32(B) and B's length in bytes: crc(A)·x^(8·length) + crc(B). O(log length). */
export function crc32Combine(crcA: number, crcB: number, lengthB: number): number {
  let power = 0x80000000; // x^0
  let square = 0x00800000; // x^8: one byte
  for (let n = lengthB; n > 0; n = Math.floor(n / 2)) {
    if (n % 2 === 1) power = multiply(power, square);
    square = multiply(square, square);
  }
  return (multiply(crcA, power) ^ crcB) >>> 0;
}
