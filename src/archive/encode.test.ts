import { describe, expect, it } from 'vitest';
import { ByteWriter } from './encode.js';

describe('ByteWriter', () => {
  it.each([
    ['u8', 1],
    ['u16', 2],
    ['u32', 4],
    ['bytes', 3],
  ] as const)('keeps what %s writes when the buffer grows under it', (method, width) => {
    const out = new ByteWriter(1);
    const expected: number[] = [];
    for (let i = 0; i < 1000; i++) {
      const bytes = Array.from({ length: width }, (_, k) => (i + 7 * k + 1) & 0xff);
      if (method === 'bytes') out.bytes(Uint8Array.from(bytes));
      else out[method](bytes.reduceRight((value, byte) => value * 256 + byte, 0));
      expected.push(...bytes);
    }
    expect([...out.finish()]).toEqual(expected);
  });
});
