import { describe, expect, test } from 'vitest';
import { Crc64, crc64, crc64Combine } from './crc64.js';

/** Bit by bit, from the definition. */
function slow(data: Uint8Array): bigint {
  let crc = (1n << 64n) - 1n;
  for (const byte of data) {
    crc ^= BigInt(byte);
    for (let i = 0; i < 8; i++) crc = crc & 1n ? (crc >> 1n) ^ 0xd800_0000_0000_0000n : crc >> 1n;
  }
  return crc ^ ((1n << 64n) - 1n);
}

const noise = Uint8Array.from({ length: 1000 }, (_, i) => Math.imul(i + 7, 0x9e3779b1) >>> 23);

describe('CRC-64 of ISO 3309', () => {
  test('the check value of the catalogue (CRC-64/GO-ISO)', () => {
    expect(crc64(Buffer.from('123456789'))).toBe(0xb909_56c7_75a4_1001n);
    expect(crc64(new Uint8Array(0))).toBe(0n);
  });

  test('is what the definition gives, at every length and alignment', () => {
    for (let length = 0; length < 70; length++) {
      for (const start of [0, 1, 3]) {
        const data = noise.subarray(start, start + length);
        expect(crc64(data)).toBe(slow(data));
      }
    }
    expect(crc64(noise)).toBe(slow(noise));
  });

  test('is what the definition gives for data that SIMD folds', () => {
    const long = Buffer.concat(Array.from({ length: 140 }, (_, i) => noise.map((byte) => byte ^ i)));
    for (const length of [4095, 4096, 4097, 4111, 4112, 5000, 65_535, 65_536, 65_537, 70_000, 139_999]) {
      for (const start of [0, 1]) {
        const data = long.subarray(start, start + length);
        expect(crc64(data), `${length} bytes from ${start}`).toBe(slow(data));
      }
    }
    const cut = 5003;
    expect(new Crc64().update(long.subarray(0, cut)).update(long.subarray(cut)).digest()).toBe(slow(long));
  });

  test('may be given its data in pieces', () => {
    for (const cut of [0, 1, 7, 8, 9, 500]) {
      expect(new Crc64().update(noise.subarray(0, cut)).update(noise.subarray(cut)).digest()).toBe(slow(noise));
    }
  });

  test('of a whole follows from those of its parts', () => {
    for (const cut of [0, 1, 8, 333, 999, 1000]) {
      const [a, b] = [noise.subarray(0, cut), noise.subarray(cut)];
      expect(crc64Combine(crc64(a), crc64(b), b.length)).toBe(slow(noise));
    }
  });
});
