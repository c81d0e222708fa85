import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { latin1, parseTar as parse } from '../../test/support/parse-tar.js';
import * as t from '../../test/support/tar.js';
import { FormatError } from '../bytes/index.js';
import { EntryColumns, TarParser } from './index.js';

/** An entry of each kind that the parser keeps something for. */
const everything = t.tar(
  t.dir('./'),
  t.pax({ comment: 'x' }, 'g'),
  t.file('a', 'hello', { xattrs: { 'user.x': 'y' } }),
  t.gnuLong('L', 'l'.repeat(600)),
  t.file('cut', 'x'.repeat(1500)),
  t.gnuSparse('s', 50_000, [
    [512, 'a'.repeat(512)],
    [2048, 'b'],
    [4096, 'c'],
    [8192, 'd'],
    [16_384, 'e'],
  ]),
  t.paxSparse('1.0', 'p', 5000, [[512, 'x']]),
  t.symlink('link', 'a'),
);

describe('bounds', () => {
  test('a layer has at most 4,194,304 entries', () => {
    const entries = new EntryColumns();
    const parser = new TarParser({ entries });
    const block = t.header({ name: 'f' });
    const many = Buffer.concat(Array.from({ length: 4096 }, () => block));
    for (let i = 0; i < 1024; i++) parser.push(many);
    expect(entries.count).toBe(4_194_304);
    expect(() => parser.push(block)).toThrow(/more than 4194304 entries/);
  });

  test('its names, links and xattrs take at most 1 GiB', () => {
    const parser = new TarParser({ entries: new EntryColumns() });
    const large = Buffer.concat([t.pax({ 'SCHILY.xattr.user.x': Buffer.alloc(1_000_000) }), t.header({ name: 'f' })]);
    expect(() => {
      for (let i = 0; i < 1100; i++) parser.push(large);
    }).toThrow(/names, link targets and xattrs exceed 1073741824 bytes/);
  });
});

describe('delivery', () => {
  test('any chunking gives the same entries', () => {
    const whole = parse(everything);
    for (const chunk of [1, 3, 511, 512, 513, 4096]) expect(parse(everything, chunk)).toEqual(whole);
  });

  test('cut anywhere, it throws a FormatError or gives the entries before the cut', () => {
    const whole = parse(everything);
    for (let length = 0; length < everything.length; length++) {
      try {
        const some = parse(everything.subarray(0, length));
        expect(whole.slice(0, some.length)).toEqual(some);
      } catch (error) {
        if (!(error instanceof FormatError)) throw error;
        expect(error.offset).toBeLessThanOrEqual(length);
      }
    }
  });

  test('flipped bits give entries or a FormatError', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(everything.length - 1), fc.integer({ min: 1, max: 255 })), {
          minLength: 1,
          maxLength: 20,
        }),
        (flips) => {
          const damaged = everything.slice();
          for (const [at, bits] of flips) damaged[at]! ^= bits;
          const parser = new TarParser({ entries: new EntryColumns() });
          try {
            parser.push(damaged);
            parser.finish();
          } catch (error) {
            expect(error).toBeInstanceOf(FormatError);
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  test('whatever is written is read back', () => {
    const name = fc.stringMatching(/^[a-zé]{1,200}$/);
    const entry = fc.record({
      name,
      data: fc.string({ maxLength: 2000 }),
      uid: fc.nat(0xfffffffe), // the last one means "leave it"
      mtime: fc.oneof(fc.integer({ min: -(2 ** 40), max: 2 ** 40 }), fc.constant('1.25')),
      value: fc.uint8Array({ minLength: 1, maxLength: 300 }),
    });
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 8 }), fc.integer({ min: 1, max: 3000 }), (list, chunk) => {
        const archive = t.tar(
          ...list.map((e) => t.file(e.name, e.data, { uid: e.uid, mtime: e.mtime, xattrs: { 'user.v': e.value } })),
        );
        expect(parse(archive, chunk)).toMatchObject(
          list.map((e) => ({
            path: latin1(Buffer.from(e.name)),
            data: latin1(Buffer.from(e.data)),
            uid: e.uid,
            mtime: e.mtime === '1.25' ? 1 : e.mtime,
            xattrs: { 'user.v': latin1(e.value) },
          })),
        );
      }),
      { numRuns: 100 },
    );
  });
});
