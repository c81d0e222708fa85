import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type MultipartStyle, multipartAnswer, PLAIN_STYLE } from '../../test/support/multipart.js';
import { FormatError } from '../bytes/index.js';
import {
  type BlobRange,
  boundaryOf,
  MAX_PART_HEAD_BYTES,
  PartsReader,
  rangeHeader,
  rangesAfter,
} from './byte-ranges.js';

const SIZE = 100_000;
const BLOB = Buffer.from(Array.from({ length: SIZE }, (_, i) => (i * 7919) >> 8));
const ASKED: readonly BlobRange[] = [
  { start: 5000, length: 300 },
  { start: 10, length: 1 },
  { start: SIZE - 4000, length: 4000 },
];

const bytesOf = (ranges: readonly BlobRange[]): Buffer =>
  Buffer.concat(ranges.map(({ start, length }) => BLOB.subarray(start, start + length)));
const answer = (ranges: readonly BlobRange[], style: Partial<MultipartStyle> = {}): Buffer =>
  multipartAnswer(BLOB, ranges, { ...PLAIN_STYLE, ...style });

interface Result {
  readonly data: Buffer;
  readonly ended: boolean;
  readonly error: string | null;
}

/** Reads a body that comes in pieces cut at these places, as a connection does, up to its first fault. */
function read(body: Buffer, ranges = ASKED, cuts: readonly number[] = [], boundary = PLAIN_STYLE.boundary): Result {
  const reader = new PartsReader('the answer', boundary, ranges, SIZE);
  const data: Buffer[] = [];
  const edges = [...cuts.map((cut) => cut % (body.length + 1)).sort((a, b) => a - b), body.length];
  let error: string | null = null;
  let from = 0;
  for (const edge of edges) {
    for (let rest = body.subarray(from, edge); rest.length > 0 && error === null; ) {
      let taken = Math.min(reader.left, rest.length);
      if (taken > 0) {
        data.push(rest.subarray(0, taken));
        reader.took(taken);
      } else {
        try {
          taken = reader.between(rest);
        } catch (thrown) {
          if (!(thrown instanceof FormatError)) throw thrown;
          error = thrown.message;
        }
      }
      rest = rest.subarray(taken);
    }
    from = edge;
  }
  return { data: Buffer.concat(data), ended: reader.ended, error };
}

const everyByte = (length: number): number[] => Array.from({ length }, (_, i) => i);

describe('an answer in parts', () => {
  test('gives the ranges in the order in which they were asked for, however it is cut up', () => {
    const body = answer(ASKED);
    expect(read(body)).toEqual({ data: bytesOf(ASKED), ended: true, error: null });
    expect(read(body, ASKED, everyByte(body.length))).toEqual({ data: bytesOf(ASKED), ended: true, error: null });
  });

  test.each<[string, Partial<MultipartStyle>]>([
    ['a line end before the first delimiter, as nginx sends it', { lead: '\r\n' }],
    ['blanks behind the delimiter', { padding: ' \t' }],
    ['fields in another case and with other blanks', { fields: (range) => `content-RANGE:\t${range}  \r\n` }],
    ['no blank behind a colon', { fields: (range) => `Content-Range:${range}\r\nX-Y:z\r\n` }],
    ['an unknown total', { fields: (range) => `Content-Range: ${range.replace(/\/.*/, '/*')}\r\n` }],
    ['no epilogue', { epilogue: '' }],
    ['an epilogue', { epilogue: '\r\nwhatever --x--' }],
  ])('may have %s', (_, style) => {
    const body = answer(ASKED, style);
    for (const cuts of [[], everyByte(body.length)]) {
      expect(read(body, ASKED, cuts)).toEqual({ data: bytesOf(ASKED), ended: true, error: null });
    }
  });

  const [first, second, third] = ASKED as [BlobRange, BlobRange, BlobRange];
  const lying = (range: string): Partial<MultipartStyle> => ({ fields: () => `Content-Range: ${range}\r\n` });
  test.each<[string, Buffer, number, RegExp]>([
    [
      'parts in another order',
      answer([second, first, third]),
      0,
      /part 1 has .*bytes 10-10.*bytes 5000-5299\/100000 was/,
    ],
    ['a part twice', answer([first, first, third]), 300, /part 2 has/],
    ['joined parts', answer([{ start: 10, length: 5290 }, third]), 0, /part 1 has/],
    ['fewer parts', answer([first, second]), 301, /the end after 2 parts of 3/],
    ['more parts', answer([...ASKED, first]), 4301, /more parts than the 3/],
    ['another total', answer(ASKED, lying('bytes 5000-5299/7')), 0, /part 1 has/],
    ['a range that is too long', answer(ASKED, lying('bytes 5000-9999/100000')), 0, /part 1 has/],
    ['a range beyond the blob', answer(ASKED, lying('bytes 5000-99999999999999999999/100000')), 0, /part 1 has/],
    ['a range that is none', answer(ASKED, lying('bytes */100000')), 0, /part 1 has/],
    ['another unit', answer(ASKED, lying('pages 5000-5299/100000')), 0, /part 1 has/],
    ['no range', answer(ASKED, { fields: () => 'Content-Type: a/b\r\n' }), 0, /0 Content-Ranges/],
    ['no fields', answer(ASKED, { fields: () => '' }), 0, /0 Content-Ranges/],
    [
      'two ranges in a part',
      answer(ASKED, { fields: (r) => `Content-Range: ${r}\r\nContent-Range: ${r}\r\n` }),
      0,
      /2 Content-R/,
    ],
    ['a preamble', answer(ASKED, { lead: 'This is a multipart message.\r\n' }), 0, /in place of the delimiter/],
    ['an endless preamble', Buffer.alloc(1 << 20, '\r\n'), 0, /in place of the delimiter/],
    ['an endless head', answer(ASKED, { fields: () => 'a: b\r\n'.repeat(1 << 16) }), 0, /longer than 1024 bytes/],
    ['an endless line', answer(ASKED, { padding: ' '.repeat(1 << 16) }), 0, /longer than 1024 bytes/],
    ['another boundary', answer(ASKED, { boundary: '3d6b6a416f9b6' }), 0, /in place of the delimiter/],
    ['a longer boundary', answer(ASKED, { boundary: `${PLAIN_STYLE.boundary}x` }), 0, /behind a delimiter/],
    ['line ends without CR', Buffer.from(answer(ASKED).toString('latin1').replaceAll('\r\n', '\n'), 'latin1'), 0, /./],
    [
      'data that is too long',
      answer([{ ...first, length: 301 }, second, third], lying('bytes 5000-5299/100000')),
      300,
      /in place/,
    ],
  ])('is refused for %s, and what came before is right', (_, body, received, why) => {
    for (const cuts of [[], everyByte(Math.min(body.length, 20_000))]) {
      const { data, error } = read(body, ASKED, cuts);
      expect(error).toEqual(expect.stringMatching(/^the answer at byte \d+: /));
      expect(error).toEqual(expect.stringMatching(why));
      expect(data.equals(bytesOf(ASKED).subarray(0, received))).toBe(true);
    }
  });

  test('that is cut off anywhere gives what came, and has not ended', () => {
    const body = answer(ASKED, { epilogue: '' });
    for (let end = 0; end < body.length; end++) {
      const { data, ended, error } = read(body.subarray(0, end));
      expect([ended, error]).toEqual([false, null]);
      expect(data.equals(bytesOf(ASKED).subarray(0, data.length))).toBe(true);
    }
  });

  test('errors show nothing that a terminal obeys, and little', () => {
    const { error } = read(Buffer.from(`\x1b[2J${'x'.repeat(2000)}`));
    expect(error).not.toContain('\x1b');
    expect(error!.length).toBeLessThan(300);
  });

  const ranges = fc.array(
    fc.tuple(fc.nat(SIZE - 3000), fc.integer({ min: 1, max: 3000 })).map(([start, length]) => ({ start, length })),
    { minLength: 1, maxLength: 12 },
  );

  test('however it is cut up: property', () => {
    fc.assert(
      fc.property(ranges, fc.array(fc.nat()), fc.constantFrom('', '\r\n'), (asked, cuts, lead) => {
        const got = read(answer(asked, { lead }), asked, cuts);
        expect([got.error, got.ended]).toEqual([null, true]);
        expect(got.data.equals(bytesOf(asked))).toBe(true);
      }),
    );
  });

  test('with a byte changed between the parts it gives no byte from a wrong place: property', () => {
    fc.assert(
      fc.property(ranges, fc.nat(), fc.nat(255), fc.array(fc.nat()), (asked, at, value, cuts) => {
        const body = answer(asked);
        const whole = bytesOf(asked);
        body[at % body.length] = value;
        const { data } = read(body, asked, cuts);
        // The changed byte itself may be data, which its digest finds.
        let different = 0;
        for (let i = 0; i < data.length; i++) if (data[i] !== whole[i]) different++;
        expect(different).toBeLessThan(2);
        expect(data.length).toBeLessThanOrEqual(whole.length);
        expect(read(body, asked)).toEqual(read(body, asked, cuts));
      }),
    );
  });
});

test.each([
  ['multipart/byteranges; boundary=3d6b6a416f9b5', '3d6b6a416f9b5'],
  ['Multipart/ByteRanges ;\tcharset=x; BOUNDARY="a b"', 'a b'],
  ['multipart/byteranges;boundary="a\\"b"', null],
  ['multipart/byteranges;boundary="a\\+b"', 'a+b'],
  ['multipart/byteranges; boundary=a/b=?', 'a/b=?'],
  [`multipart/byteranges; boundary=${'x'.repeat(70)}`, 'x'.repeat(70)],
  [`multipart/byteranges; boundary=${'x'.repeat(71)}`, null],
  ['multipart/byteranges; boundary="a "', null],
  ['multipart/byteranges; boundary=""', null],
  ['multipart/byteranges; boundary="a\r\nb"', null],
  ['multipart/byteranges; boundary', null],
  ['multipart/byteranges', null],
  ['multipart/byterangesx; boundary=a', null],
  ['multipart/mixed; boundary=a', null],
  ['application/octet-stream', null],
  ['', null],
])('the boundary of %j is %j', (type, boundary) => {
  expect(boundaryOf(type)).toBe(boundary);
});

test('a Range header names ranges in their order, and what is left of them', () => {
  expect(rangeHeader(ASKED)).toBe('bytes=5000-5299,10-10,96000-99999');
  expect(rangesAfter(ASKED, 0)).toEqual(ASKED);
  expect(rangesAfter(ASKED, 299)).toEqual([{ start: 5299, length: 1 }, ...ASKED.slice(1)]);
  expect(rangesAfter(ASKED, 300)).toEqual(ASKED.slice(1));
  expect(rangesAfter(ASKED, 302)).toEqual([{ start: SIZE - 3999, length: 3999 }]);
  expect(rangesAfter(ASKED, 4301)).toEqual([]);
  expect(MAX_PART_HEAD_BYTES).toBe(1024);
});
