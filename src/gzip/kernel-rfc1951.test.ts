import { inflateRawSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { BitWriter, checkSpans, gzipMember, indexGzip } from '../../test/support/gzip.js';
import { FormatError } from '../bytes/index.js';

// Streams built bit by bit: what RFC 1951 allows, and what it forbids. zlib must agree on each.

const PRECODE_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

function block(type: number, last = true): BitWriter {
  return new BitWriter().bits(last ? 1 : 0, 1).bits(type, 2);
}

/** Canonical codewords (RFC 1951 §3.2.2). */
function codewords(lengths: readonly number[]): number[] {
  const codes: number[] = [];
  let code = 0;
  for (let length = 1; length <= 15; length++) {
    lengths.forEach((l, symbol) => {
      if (l === length) codes[symbol] = code++;
    });
    code <<= 1;
  }
  return codes;
}

/** A dynamic block's header, every code length written out with a precode of 16 codewords of 4 bits. */
function dynamic(
  litlen: Record<number, number>,
  dist: Record<number, number>,
  counts?: { litlens?: number; dists?: number },
) {
  const litlens = counts?.litlens ?? 286;
  const dists = counts?.dists ?? 30;
  const lengths = [
    ...Array.from({ length: litlens }, (_, i) => litlen[i] ?? 0),
    ...Array.from({ length: dists }, (_, i) => dist[i] ?? 0),
  ];
  const w = block(2)
    .bits(litlens - 257, 5)
    .bits(dists - 1, 5)
    .bits(15, 4);
  for (const symbol of PRECODE_ORDER) w.bits(symbol < 16 ? 4 : 0, 3);
  for (const length of lengths) w.code(length, 4);
  const litlenCodes = codewords(lengths.slice(0, litlens));
  const distCodes = codewords(lengths.slice(litlens));
  return {
    w,
    lit: (symbol: number) => w.code(litlenCodes[symbol]!, litlen[symbol]!),
    dist: (symbol: number) => w.code(distCodes[symbol]!, dist[symbol]!),
  };
}

/** Our verdict on the raw stream must be zlib's, in whole and in single bytes. */
function verdict(deflated: Uint8Array): Buffer | string {
  let right: Buffer | null = null;
  try {
    right = inflateRawSync(deflated);
  } catch {}
  const member = gzipMember(deflated, right ?? new Uint8Array(0));
  const verdicts = [member.length, 1].map((step) => {
    try {
      const indexed = indexGzip(member, { spanBytes: 7, step });
      checkSpans(member, indexed);
      return indexed.output;
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      return error.detail;
    }
  });
  expect(verdicts[1]).toEqual(verdicts[0]);
  if (right !== null) expect(verdicts[0]).toEqual(right);
  else expect(typeof verdicts[0]).toBe('string');
  return verdicts[0]!;
}

describe('accepted', () => {
  test('an empty stored block, an empty fixed block, an empty dynamic block', () => {
    expect(verdict(block(0).align().bits(0, 16).bits(0xffff, 16).finish())).toEqual(Buffer.alloc(0));
    expect(verdict(block(1).code(0, 7).finish())).toEqual(Buffer.alloc(0));
    const empty = dynamic({ 256: 1 }, {});
    empty.lit(256);
    expect(verdict(empty.w.finish())).toEqual(Buffer.alloc(0));
  });

  test('a stored block after a fixed one that ends within a byte', () => {
    const w = block(1, false)
      .code(0x30 + 97, 8)
      .code(0, 7);
    w.bits(1, 1).bits(0, 2).align().bits(3, 16).bits(0xfffc, 16).bytes(Buffer.from('xyz'));
    expect(verdict(w.finish())).toEqual(Buffer.from('axyz'));
  });

  test('all-literal blocks without a distance code (none of 30, or one of length 0)', () => {
    for (const dists of [1, 30]) {
      const b = dynamic({ 65: 1, 256: 1 }, {}, { dists });
      for (let i = 0; i < 20; i++) b.lit(65);
      b.lit(256);
      expect(verdict(b.w.finish())).toEqual(Buffer.alloc(20, 'A'));
    }
  });

  test('a single distance code of one bit', () => {
    const b = dynamic({ 65: 2, 256: 2, 257: 2, 258: 2 }, { 0: 1 });
    b.lit(65);
    b.lit(258);
    b.dist(0);
    b.lit(256);
    expect(verdict(b.w.finish())).toEqual(Buffer.alloc(5, 'A'));
  });

  test('codewords of 15 bits, in both codes, with all extra bits', () => {
    const litlen: Record<number, number> = { 0: 1, 65: 15, 256: 15 };
    for (let n = 2; n <= 14; n++) litlen[270 + n] = n;
    const dist: Record<number, number> = { 0: 15, 29: 15 };
    for (let n = 1; n <= 14; n++) dist[n] = n;
    const b = dynamic(litlen, dist);
    for (let i = 0; i < 33000; i++) b.lit(i % 50 === 0 ? 65 : 0);
    // Length 227 + 30, distance 24577 + 8191.
    b.lit(284);
    b.w.bits(30, 5);
    b.dist(29);
    b.w.bits(8191, 13);
    b.lit(65);
    b.lit(256);
    const out = verdict(b.w.finish());
    expect((out as Buffer).length).toBe(33000 + 257 + 1);
  });

  test.each([1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 15, 16, 17, 24, 31, 32, 33, 48, 64])(
    'copies that overlap themselves: distance %i',
    (distance) => {
      // Far from the edges, so that the fast loop does them, and at the very end.
      const w = block(1, false);
      const literal = (byte: number) => (byte < 144 ? w.code(0x30 + byte, 8) : w.code(0x190 + byte - 144, 9));
      const expected: number[] = [];
      for (let i = 0; i < 64; i++) {
        literal((i * 37 + 5) & 255);
        expected.push((i * 37 + 5) & 255);
      }
      const distSymbols: [number, number, number][] = [];
      for (let symbol = 0, base = 1; symbol < 30; symbol++) {
        const extra = symbol < 4 ? 0 : (symbol - 2) >> 1;
        distSymbols.push([symbol, base, extra]);
        base += 2 ** extra;
      }
      const [symbol, base, extra] = distSymbols.filter(([, b]) => b <= distance).at(-1)!;
      for (let round = 0; round < 3; round++) {
        for (let length = 3; length <= 10; length++) {
          w.code(length - 2, 7)
            .code(symbol, 5)
            .bits(distance - base, extra);
          for (let i = 0; i < length; i++) expected.push(expected[expected.length - distance]!);
        }
        w.code(0xc5, 8)
          .code(symbol, 5)
          .bits(distance - base, extra); // 285: 258
        for (let i = 0; i < 258; i++) expected.push(expected[expected.length - distance]!);
        w.code(0xc4, 8)
          .bits(17, 5)
          .code(symbol, 5)
          .bits(distance - base, extra); // 284: 227 + 17
        for (let i = 0; i < 244; i++) expected.push(expected[expected.length - distance]!);
      }
      w.code(0, 7)
        .bits(1, 1)
        .bits(0, 2)
        .align()
        .bits(500, 16)
        .bits(65535 - 500, 16)
        .bytes(new Uint8Array(500));
      const out = verdict(w.finish()) as Buffer;
      expect(out.equals(Buffer.concat([Buffer.from(expected), Buffer.alloc(500)]))).toBe(true);
    },
  );
});

describe('refused', () => {
  test('block type 3', () => {
    expect(verdict(block(3).finish())).toMatch(/block type 3/);
  });

  test("a stored block whose length is not its complement's", () => {
    expect(verdict(block(0).align().bits(1, 16).bits(0xffff, 16).bits(0, 8).finish())).toMatch(/complement/);
  });

  test.each([287, 288])('%i literal/length codes', (litlens) => {
    expect(verdict(dynamic({ 0: 1, 256: 1 }, {}, { litlens }).w.finish())).toMatch(/more than 286/);
  });

  test.each([31, 32])('%i distance codes', (dists) => {
    expect(verdict(dynamic({ 0: 1, 256: 1 }, {}, { dists }).w.finish())).toMatch(/30 distance/);
  });

  test.each([
    ['over-subscribed', [1, 1, 1]],
    ['incomplete', [1, 2]],
    ['a single codeword', [1]],
    ['empty', []],
  ])('a code length code that is %s', (_, lengths) => {
    const w = block(2).bits(0, 5).bits(0, 5).bits(15, 4);
    PRECODE_ORDER.forEach((symbol) => {
      w.bits(lengths[symbol] ?? 0, 3);
    });
    expect(verdict(w.bits(0, 4000).finish())).toMatch(/code length code is/);
  });

  test('a repeat with nothing before it', () => {
    const w = block(2).bits(0, 5).bits(0, 5).bits(15, 4);
    for (const symbol of PRECODE_ORDER) w.bits(symbol === 16 || symbol === 0 ? 1 : 0, 3);
    expect(verdict(w.code(1, 1).bits(0, 2).bits(0, 4000).finish())).toMatch(/nothing to repeat/);
  });

  test('a repeat past the end', () => {
    const w = block(2).bits(0, 5).bits(0, 5).bits(15, 4);
    for (const symbol of PRECODE_ORDER) w.bits(symbol === 18 || symbol === 0 ? 1 : 0, 3);
    for (let i = 0; i < 3; i++) w.code(1, 1).bits(127, 7);
    expect(verdict(w.bits(0, 4000).finish())).toMatch(/past the end/);
  });

  test('no code for the end of the block', () => {
    expect(verdict(dynamic({ 0: 1, 1: 1 }, {}).w.bits(0, 100).finish())).toMatch(/no code for its end/);
  });

  test.each([
    ['over-subscribed', { 0: 1, 1: 1, 256: 1 }],
    ['incomplete', { 0: 2, 256: 2 }],
    ['a single codeword of two bits', { 256: 2 }],
  ])('a literal/length code that is %s', (_, litlen) => {
    expect(verdict(dynamic(litlen, {}).w.bits(0, 100).finish())).toMatch(/literal\/length code is/);
  });

  test.each([
    ['over-subscribed', { 0: 1, 1: 1, 2: 1 }],
    ['incomplete', { 0: 2, 1: 2 }],
    ['a single codeword of two bits', { 5: 2 }],
  ])('a distance code that is %s', (_, dist) => {
    expect(verdict(dynamic({ 0: 1, 256: 1 }, dist).w.bits(0, 100).finish())).toMatch(/distance code is/);
  });

  test('the bit pattern that a lone codeword leaves', () => {
    expect(verdict(dynamic({ 256: 1 }, {}).w.code(1, 1).bits(0, 400).finish())).toMatch(/unused literal\/length/);
    const b = dynamic({ 65: 2, 256: 2, 257: 2, 258: 2 }, { 0: 1 });
    b.lit(65);
    b.lit(257);
    expect(verdict(b.w.code(1, 1).bits(0, 400).finish())).toMatch(/unused distance/);
  });

  test('a distance in a block that has no distance code', () => {
    const b = dynamic({ 65: 2, 256: 2, 257: 2, 258: 2 }, {});
    b.lit(65);
    b.lit(257);
    expect(verdict(b.w.bits(0, 400).finish())).toMatch(/unused distance/);
  });

  test.each([286, 287])('fixed literal/length code %i', (symbol) => {
    expect(
      verdict(
        block(1)
          .code(0xc0 + symbol - 280, 8)
          .bits(0, 400)
          .finish(),
      ),
    ).toMatch(/unused literal\/length/);
  });

  test.each([30, 31])('fixed distance code %i', (symbol) => {
    expect(verdict(block(1).code(0x30, 8).code(1, 7).code(symbol, 5).bits(0, 400).finish())).toMatch(/unused distance/);
  });

  test('a distance one byte beyond the start of the data', () => {
    expect(verdict(block(1).code(0x30, 8).code(1, 7).code(1, 5).code(0, 7).finish())).toMatch(/reaches back/);
    expect(verdict(block(1).code(0x30, 8).code(1, 7).code(0, 5).code(0, 7).finish())).toEqual(Buffer.alloc(4));
  });
});
