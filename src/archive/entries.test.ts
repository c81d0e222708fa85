import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { dir, fifo, file, gnuSparse, hardLink, pax, symlink, tar } from '../../test/support/tar.js';
import { ClipError } from '../bytes/index.js';
import { EntryColumns, TarParser } from '../tar/index.js';
import { decodeEntries, encodeEntries } from './entries.js';

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
  const bytes = encodeEntries(entries);

  test('come back as they were, in one encoding', () => {
    const again = decodeEntries(bytes, 'test', TAR.length);
    expect(again.toTransfer().message).toEqual(entries.toTransfer().message);
    expect(encodeEntries(decodeEntries(bytes, 'test', TAR.length))).toEqual(bytes);
  });

  test('truncation at every byte, and a byte too many, are refused', () => {
    for (let length = 0; length < bytes.length; length++)
      expect(() => decodeEntries(bytes.slice(0, length), 'test', TAR.length)).toThrow(/^test at byte/);
    expect(() => decodeEntries(Buffer.concat([bytes, Buffer.alloc(1)]), 'test', TAR.length)).toThrow(/too many/);
  });

  test('any changed bytes are refused with a typed error, or are other possible entries', () => {
    const change = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(change, (changes) => {
        const bad = bytes.slice();
        for (const [at, value] of changes) bad[at] = value;
        try {
          const other = decodeEntries(bad, 'test', TAR.length);
          expect(decodeEntries(encodeEntries(other), 'test', TAR.length).toTransfer().message).toEqual(
            other.toTransfer().message,
          );
        } catch (error) {
          expect(error).toBeInstanceOf(ClipError);
        }
      }),
      { numRuns: 2000 },
    );
  });

  test('a file whose data lies beyond the layer is refused', () => {
    expect(() => decodeEntries(bytes, 'test', 1024)).toThrow(/beyond the layer/);
  });

  test('a count that the bytes cannot hold is refused before memory is allocated', () => {
    expect(() => decodeEntries(Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0x0f), 'test', 0)).toThrow(/entries claimed/);
  });
});
