import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { crc32, crc32Combine, crc32c } from './crc.js';

describe('crc', () => {
  test('crc32c of RFC 3720 B.4: 32 zero bytes, and the check value of "123456789"', () => {
    expect((crc32c(new Uint8Array(32)) ^ 0xffffffff) >>> 0).toBe(0x8a9136aa);
    expect((crc32c(Buffer.from('123456789')) ^ 0xffffffff) >>> 0).toBe(0xe3069283);
  });

  test('combining the sums of two parts gives the sum of the whole', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 3000 }), fc.uint8Array({ maxLength: 3000 }), (a, b) => {
        expect(crc32Combine(crc32(a), crc32(b), b.length)).toBe(crc32(Buffer.concat([a, b])));
      }),
    );
  });
});
