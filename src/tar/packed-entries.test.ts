import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { dir, fifo, file, gnuSparse, hardLink, pax, symlink, tar } from '../../test/support/tar.js';
import { ClipError } from '../bytes/index.js';
import { EntryColumns, packEntries, TarParser, unpackEntries } from './index.js';

function parsed(bytes: Uint8Array): EntryColumns {
  const entries = new EntryColumns();
  const parser = new TarParser({ entries });
  parser.push(bytes);
  parser.finish();
  return entries;
}

const TAR = tar(
  dir('d', { mode: 0o2755, uid: 70_000, gid: 4_000_000_000 }),
  file('d/f', 'content', { mode: 0o4755, mtime: '-1.5' }),
  file('empty'),
  symlink('s', 'd/f'),
  hardLink('h', 'd/f'),
  fifo('p', {}),
  gnuSparse('sparse', 1_000_000, [
    [4096, Buffer.from('some data')],
    [500_000, Buffer.from('more')],
  ]),
  pax({ 'SCHILY.xattr.user.b': 'two', 'SCHILY.xattr.user.a': 'one' }),
  file('x', 'with xattrs'),
);

describe('entries', () => {
  const entries = parsed(TAR);
  const bytes = new Uint8Array(packEntries(entries));

  test('come back as they were, in one encoding', () => {
    const again = unpackEntries(bytes, 'test', TAR.length);
    expect(again.used()).toEqual(entries.used());
    expect(new Uint8Array(packEntries(again))).toEqual(bytes);
  });

  test('truncation at every byte, and a byte too many, are refused', () => {
    for (let length = 0; length < bytes.length; length++)
      expect(() => unpackEntries(bytes.slice(0, length), 'test', TAR.length)).toThrow(/^test at byte/);
    expect(() => unpackEntries(Buffer.concat([bytes, Buffer.alloc(1)]), 'test', TAR.length)).toThrow(
      /bytes, \d+ expected/,
    );
  });

  test('any changed bytes are refused with a typed error, or are other possible entries', () => {
    const change = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(change, (changes) => {
        const bad = bytes.slice();
        for (const [at, value] of changes) bad[at] = value;
        try {
          const other = unpackEntries(bad, 'test', TAR.length);
          expect(packEntries(other)).toEqual(Buffer.from(bad));
        } catch (error) {
          expect(error).toBeInstanceOf(ClipError);
        }
      }),
      { numRuns: 2000 },
    );
  });

  test('a file whose data lies beyond the layer is refused', () => {
    expect(() => unpackEntries(bytes, 'test', 1024)).toThrow(/beyond the layer/);
  });

  test('a count that the bytes cannot hold is refused before memory is allocated', () => {
    const huge = Buffer.alloc(12);
    huge.writeUInt32LE(4 * 1024 * 1024, 0);
    expect(() => unpackEntries(huge, 'test', 0)).toThrow(/12 bytes, \d+ expected/);
    huge.writeUInt32LE(0xffff_ffff, 0);
    expect(() => unpackEntries(huge, 'test', 0)).toThrow(/4294967295 entries/);
  });
});
