import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { SpanHasher } from './span-hasher.js';

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

test('digests of blob and spans are those of the byte ranges, whatever the chunks and however late the boundaries', () => {
  const chunks = fc.array(fc.integer({ min: 0, max: 200_000 }), { minLength: 1, maxLength: 12 });
  const cuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 12 });
  fc.assert(
    fc.property(chunks, cuts, fc.integer({ min: 0, max: 60_000 }), fc.boolean(), (sizes, at, late, aligned) => {
      const total = sizes.reduce((a, b) => a + b, 0);
      const blob = new Uint8Array(total);
      for (let i = 0; i < total; i++) blob[i] = (i * 31 + (i >> 9)) & 0xff;
      const bounds = at
        .map((f) => (aligned ? 8 * Math.floor(f * total) : Math.floor(f * total * 8)))
        .sort((a, b) => a - b);
      const hasher = new SpanHasher();
      let next = 0;
      let position = 0;
      for (const size of sizes) {
        // A decoder that has seen this chunk knows of the boundaries up to `late` bytes before its end.
        for (; next < bounds.length && bounds[next]! / 8 < position + size - late; next++)
          hasher.boundary(bounds[next]!);
        hasher.push(blob.subarray(position, position + size));
        position += size;
      }
      for (; next < bounds.length; next++) hasher.boundary(bounds[next]!);
      const { blob: whole, spans } = hasher.finish();
      expect(Buffer.from(whole).toString('hex')).toBe(sha256(blob));
      const expected = bounds
        .slice(1)
        .map((end, i) => sha256(blob.subarray(Math.floor(bounds[i]! / 8), Math.ceil(end / 8))));
      expect(spans.length).toBe(32 * expected.length);
      expected.forEach((digest, i) => {
        expect(Buffer.from(spans.subarray(32 * i, 32 * i + 32)).toString('hex')).toBe(digest);
      });
    }),
    { numRuns: 300 },
  );
});

test('a boundary that comes too late, or beyond the blob, is a fault and not a wrong digest', () => {
  const late = new SpanHasher();
  late.push(new Uint8Array(1 << 20));
  expect(() => late.boundary(80)).toThrow(RangeError);
  const beyond = new SpanHasher();
  beyond.push(new Uint8Array(10));
  beyond.boundary(81);
  expect(() => beyond.finish()).toThrow(RangeError);
});
