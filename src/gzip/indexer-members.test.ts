import { crc32, gunzipSync, gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { checkSpans, indexGzip, layerLike } from '../../test/support/gzip.js';
import { FormatError } from '../bytes/index.js';
import { FCOMMENT, FEXTRA, FHCRC, FNAME } from './format.js';

const DATA = layerLike(5000);
const BODY = gzipSync(DATA).subarray(10);

interface Fields {
  extra?: Uint8Array;
  name?: string;
  comment?: string;
  crc?: boolean;
}

/** A member of DATA with the given header fields, in the order of RFC 1952 §2.3. */
function withFields({ extra, name, comment, crc }: Fields): Buffer {
  const flags =
    (extra ? FEXTRA : 0) |
    (name === undefined ? 0 : FNAME) |
    (comment === undefined ? 0 : FCOMMENT) |
    (crc ? FHCRC : 0);
  const parts: Uint8Array[] = [Buffer.from([0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 3])];
  if (extra) parts.push(Buffer.from([extra.length & 255, extra.length >> 8]), extra);
  if (name !== undefined) parts.push(Buffer.from(`${name}\0`));
  if (comment !== undefined) parts.push(Buffer.from(`${comment}\0`));
  const header = Buffer.concat(parts);
  const sum = crc32(header) & 0xffff;
  return Buffer.concat(crc ? [header, Buffer.from([sum & 255, sum >> 8]), BODY] : [header, BODY]);
}

const FIELDS: [string, Fields][] = [
  ['FEXTRA', { extra: Buffer.from('clip') }],
  ['an empty FEXTRA', { extra: new Uint8Array(0) }],
  ['a FEXTRA of 65,535 bytes, longer than a span', { extra: new Uint8Array(65535).fill(7) }],
  ['FNAME', { name: 'layer.tar' }],
  ['an empty FNAME', { name: '' }],
  ['a FNAME of a megabyte', { name: 'n'.repeat(1 << 20) }],
  ['FCOMMENT', { comment: 'none' }],
  ['FHCRC', { crc: true }],
  ['everything', { extra: Buffer.alloc(300), name: 'a', comment: 'b', crc: true }],
];

describe('member header', () => {
  test.each(FIELDS)('%s', (_, fields) => {
    const input = withFields(fields);
    expect(gunzipSync(input).equals(DATA)).toBe(true);
    for (const step of [input.length, 1, 7]) {
      const indexed = indexGzip(input, { spanBytes: 1000, step });
      expect(indexed.output.equals(DATA)).toBe(true);
      checkSpans(input, indexed);
    }
  });

  test.each(FIELDS)('%s, in the second member, within a span', (_, fields) => {
    const input = Buffer.concat([gzipSync('first'), withFields(fields), gzipSync('third')]);
    const indexed = indexGzip(input, { spanBytes: 999 });
    expect(indexed.output.equals(Buffer.concat([Buffer.from('first'), DATA, Buffer.from('third')]))).toBe(true);
    checkSpans(input, indexed);
  });

  test('FHCRC is checked, whatever the pieces', () => {
    const good = withFields({ extra: Buffer.alloc(3), name: 'n', comment: 'c', crc: true });
    for (let at = 4; at < 23; at++) {
      const bad = Buffer.from(good);
      bad[at]! ^= 0x40;
      expect(() => indexGzip(bad)).toThrow(FormatError);
      expect(() => indexGzip(bad, { step: 1 })).toThrow(FormatError);
    }
  });

  test.each([
    ['the first magic byte', 0, 0x1e, 'not a gzip member'],
    ['the second magic byte', 1, 0x8c, 'not a gzip member'],
    ['the method', 2, 7, 'compression method 7'],
    ['a reserved flag', 3, 0x20, 'reserved flags 0x20'],
  ])('%s is refused where it stands', (_, at, value, message) => {
    const input = Buffer.from(gzipSync('x'));
    input[at] = value;
    expect(() => indexGzip(input)).toThrow(`gzip header at byte ${at}: ${message}`);
    const second = Buffer.concat([gzipSync('first'), input]);
    if (at >= 2)
      expect(() => indexGzip(second, { step: 1 })).toThrow(
        `gzip header at byte ${second.length - input.length + at}: `,
      );
  });
});

describe('members', () => {
  const three = [gzipSync(DATA), gzipSync(''), gzipSync(DATA, { level: 0 }), gzipSync(DATA.subarray(9))];

  test('follow each other; empty ones too', () => {
    const input = Buffer.concat(three);
    const indexed = indexGzip(input, { spanBytes: 701 });
    expect(indexed.output.equals(gunzipSync(input))).toBe(true);
    expect(indexed.warnings).toEqual([]);
    checkSpans(input, indexed);
  });

  test('may be as many as they like, and all empty', () => {
    const input = Buffer.concat(Array.from({ length: 20_000 }, () => gzipSync('')));
    const indexed = indexGzip(input);
    expect(indexed).toMatchObject({ checkpoints: [], crc32s: [0], warnings: [] });
    expect(indexed.output.length).toBe(0);
  });

  test('a back-reference does not reach into the member before', () => {
    // Distance 4, length 3 in the fixed code, as the first symbol of the second member.
    const second = Buffer.concat([gzipSync('').subarray(0, 10), Buffer.from([0x03, 0x0e, 0x00]), Buffer.alloc(8)]);
    expect(() => indexGzip(Buffer.concat([gzipSync(DATA), second]))).toThrow(/reaches back before the start/);
  });

  test.each([1, 2, 7, 8, 512, 300_000])('%i zeros after the last are padding', (zeros) => {
    const input = Buffer.concat([...three, Buffer.alloc(zeros)]);
    expect(indexGzip(input).warnings).toEqual([]);
    checkSpans(input, indexGzip(input, { spanBytes: 800, step: 13 }));
  });

  test.each([
    ['text', Buffer.from('trailing'), 0],
    ['one byte', Buffer.from('t'), 0],
    ['half a magic number', Buffer.from([0x1f]), 0],
    ['half a magic number, then something else', Buffer.from([0x1f, 0, 5]), 0],
    ['zeros, then a member', Buffer.concat([Buffer.alloc(20), gzipSync('late')]), 20],
    ['a lot', Buffer.alloc(600_000, 'x'), 0],
  ])('garbage after the last is ignored with a warning, as by gzip: %s', (_, garbage, offset) => {
    const start = Buffer.concat(three);
    const input = Buffer.concat([start, garbage]);
    for (const step of [1 << 20, 1]) {
      const indexed = indexGzip(input, { spanBytes: 3000, step });
      expect(indexed.output.equals(gunzipSync(start))).toBe(true);
      expect(indexed.warnings).toEqual([`trailing garbage ignored from byte ${start.length + offset} on`]);
      checkSpans(input, indexed);
    }
  });

  test('a member that is cut off is an error, not garbage', () => {
    for (let n = 2; n < 25; n++) {
      expect(() => indexGzip(Buffer.concat([three[0]!, gzipSync('second').subarray(0, n)]))).toThrow(/truncated/);
    }
  });

  test('a wrong CRC or length in the trailer is refused, with what was found', () => {
    const input = Buffer.from(gzipSync('hello'));
    const at = input.length - 8;
    const badCrc = Buffer.from(input);
    badCrc[at]! ^= 1;
    expect(() => indexGzip(badCrc)).toThrow(`gzip trailer at byte ${at}: the CRC-32 of the output is another one`);
    const badSize = Buffer.from(input);
    badSize[at + 4]! ^= 1;
    expect(() => indexGzip(badSize)).toThrow(`gzip trailer at byte ${at}: the length of the output is another one`);
  });
});

describe('hostile delivery', () => {
  const inputs = [
    gzipSync(DATA.subarray(0, 700)),
    gzipSync(DATA.subarray(0, 400), { level: 0 }),
    Buffer.concat([gzipSync(DATA.subarray(0, 200)), gzipSync(''), withFields({ name: 'n', crc: true }).subarray()]),
  ];

  test.each(inputs.map((input, i) => [i, input] as const))('one byte at a time: input %i', (_, input) => {
    const whole = indexGzip(input, { spanBytes: 64 });
    const pieces = indexGzip(input, { spanBytes: 64, step: 1 });
    expect(pieces).toEqual(whole);
    expect(whole.output.equals(gunzipSync(input))).toBe(true);
    checkSpans(input, whole);
  });

  test.each(inputs.map((input, i) => [i, input] as const))('cut off at every byte: input %i', (_, input) => {
    const right = gunzipSync(input);
    const ends = new Set<number>();
    for (let n = 0; n < input.length; n++) {
      try {
        const { output } = indexGzip(input.subarray(0, n));
        expect(right.subarray(0, output.length).equals(output)).toBe(true);
        ends.add(n);
      } catch (error) {
        expect(error).toBeInstanceOf(FormatError);
        expect((error as FormatError).offset).toBeLessThanOrEqual(n);
      }
    }
    // Only where a member ends (and before the second byte of the next magic number) is the input whole.
    expect(ends.size).toBe(input === inputs[2] ? 4 : 0);
  });

  test.each(inputs.map((input, i) => [i, input] as const))(
    'any one bit flipped never gives other bytes: input %i',
    (_, input) => {
      const right = gunzipSync(input);
      for (let bit = 0; bit < input.length * 8; bit++) {
        const bad = Buffer.from(input);
        bad[bit >> 3]! ^= 1 << (bit & 7);
        try {
          // A flip in a name or a time stamp, or one that turns the next member into garbage, changes nothing that is accepted.
          const { output } = indexGzip(bad);
          expect(right.subarray(0, output.length).equals(output)).toBe(true);
        } catch (error) {
          expect(error).toBeInstanceOf(FormatError);
        }
      }
    },
  );

  test('nothing at all', () => {
    expect(() => indexGzip(new Uint8Array(0))).toThrow('gzip header at byte 0: the input is empty');
  });
});
