import { randomFillSync } from 'node:crypto';
import { crc32 as oracle } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { crc32Combine } from '../bytes/index.js';
import { MemoryCrc32 } from './crc32.js';
import { KernelMemory, PRIVATE_SHAPE } from './memory.js';

const SHAPE = { ...PRIVATE_SHAPE, sums: 2 };

/** A memory full of noise, with room for 256 KiB to sum. */
function noisy(shared: boolean): { memory: KernelMemory; at: number } {
  const memory = KernelMemory.make(SHAPE, shared);
  for (let at = 0; at < memory.bytes.length; at += 65536) {
    const noise = randomFillSync(Buffer.alloc(Math.min(65536, memory.bytes.length - at)));
    memory.bytes.set(noise, at);
  }
  return { memory, at: memory.outStart(0) };
}

describe('CRC-32 of a memory', () => {
  test('what is added to fold is a multiple of the polynomial', () => {
    // crc32Combine multiplies by x^8 for each byte; the highest bit is x^0.
    const power = (blocks: number): number => crc32Combine(0x8000_0000, 0, 16 * blocks);
    const sum = [0, 89, 117, 155, 300].reduce((terms, blocks) => terms ^ power(blocks), 0);
    expect(sum).toBe(0);
    expect([300 - 155, 300 - 117, 300 - 89, 300]).toEqual([145, 183, 211, 300]);
  });

  test.each([false, true])('is that of zlib, for any length, place and earlier sum (shared: %s)', (shared) => {
    const { memory, at } = noisy(shared);
    const before = memory.bytes.slice(0, memory.sumRoom(0));
    const { sum } = new MemoryCrc32(memory, 0);
    const lengths = [0, 1, 15, 16, 4800, 4816, 19_199, 19_200, 19_201, 19_216, 21_183, 21_184, 21_185, 40_000, 65_535];
    for (const length of [...lengths, 255_000, 262_000]) {
      for (const offset of [0, 1, 7, 16]) {
        const view = memory.view(at + offset, length);
        for (const previous of [undefined, 0, 1, 0xffff_ffff, 0x8000_0000])
          expect(sum(view, previous)).toBe(oracle(view, previous));
      }
    }
    expect(Buffer.compare(memory.bytes.slice(0, memory.sumRoom(0)), before)).toBe(0);
  });

  test('goes on from piece to piece, and with zeros', () => {
    const { memory, at } = noisy(false);
    memory.bytes.fill(0, at + 30_000, at + 120_000);
    const { sum } = new MemoryCrc32(memory, 0);
    let crc = 0;
    for (const [from, to] of [
      [0, 25_000],
      [25_000, 25_001],
      [25_001, 120_000],
      [120_000, 200_000],
    ] as const)
      crc = sum(memory.view(at + from, to - from), crc);
    expect(crc).toBe(oracle(memory.view(at, 200_000)));
  });

  test('each thread has room of its own, and nothing else is written', () => {
    const { memory, at } = noisy(true);
    const view = memory.view(at, 200_000);
    for (const [thread, other] of [
      [0, 1],
      [1, 0],
    ] as const) {
      const [from, to] = [memory.sumRoom(other), memory.sumRoom(other + 1)];
      const kept = memory.bytes.slice(from, to);
      expect(new MemoryCrc32(memory, thread).sum(view)).toBe(oracle(view));
      expect(Buffer.compare(memory.bytes.slice(from, to), kept)).toBe(0);
    }
    expect(memory.sumRoom(2)).toBeLessThanOrEqual(memory.bytes.length);
  });

  test('sums bytes that lie elsewhere, too', () => {
    const memory = KernelMemory.make(SHAPE, false);
    const bytes = randomFillSync(Buffer.alloc(50_000));
    expect(new MemoryCrc32(memory, 0).sum(bytes, 7)).toBe(oracle(bytes, 7));
  });
});
