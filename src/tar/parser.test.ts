import { describe, expect, test } from 'vitest';
import { latin1, type ParsedEntry, parseTar as parse } from '../../test/support/parse-tar.js';
import * as t from '../../test/support/tar.js';
import { FormatError } from '../bytes/index.js';
import { EntryColumns, encodeDevice, TarParser } from './index.js';

const one = (...parts: Uint8Array[]): ParsedEntry => parse(t.tar(...parts)).at(-1)!;

describe('headers', () => {
  test.each([
    ['file', t.file('f', 'abc', { mode: 0o4755 }), { mode: '104755', size: 3, data: 'abc' }],
    ['directory', t.dir('d/', { mode: 0o1777 }), { mode: '41777', path: 'd/', size: 0 }],
    ['symlink', t.symlink('s', '../x'), { mode: '120777', link: '../x' }],
    ['symlink, whatever mode it names', t.symlink('s', 'x', { mode: 0o4644 }), { mode: '120777' }],
    ['hard link', t.hardLink('h', 'f'), { mode: '644', link: 'f' }],
    ['character device', t.char('c', 5, 300), { mode: '20644', rdev: encodeDevice(5, 300) }],
    ['block device', t.block('b', 259, 70_000), { mode: '60644', rdev: encodeDevice(259, 70_000) }],
    ['fifo', t.fifo('p'), { mode: '10644' }],
    [
      'contiguous file',
      Buffer.concat([t.header({ name: 'f', type: '7', size: 1 }), t.padded('x')]),
      { mode: '100644', data: 'x' },
    ],
    [
      'v7 file',
      Buffer.concat([t.header({ name: 'f', type: '\0', size: 1, dialect: 'v7' }), t.padded('x')]),
      { mode: '100644', data: 'x' },
    ],
    [
      'GNU dumpdir with data',
      Buffer.concat([t.header({ name: 'd/', type: 'D', size: 3, dialect: 'gnu' }), t.padded('Yf\0')]),
      { mode: '40644' },
    ],
  ])('%s', (_, part, expected) => {
    expect(one(part)).toMatchObject(expected);
  });

  describe('a regular type and a name that ends in a slash', () => {
    const types = ['\0', '0', '7'];
    test.each((['v7', 'ustar', 'gnu'] as const).flatMap((dialect) => types.map((type) => [dialect, type] as const)))(
      'are a directory: %s, type %j',
      (dialect, type) => {
        const parsed = one(t.header({ name: 'd/', type, dialect, mode: 0o755 }), t.file('after', 'x'));
        expect(parsed.path).toBe('after');
        expect(parse(t.tar(t.header({ name: 'd/', type, dialect, mode: 0o755 })))).toMatchObject([
          { mode: '40755', path: 'd/', data: '' },
        ]);
      },
    );

    test('are a directory where a pax header has the name', () => {
      expect(one(t.pax({ path: 'long/' }), t.header({ name: 'cut' }))).toMatchObject({ mode: '40644', path: 'long/' });
    });

    test('are a file where there is data, as in Go', () => {
      expect(one(t.header({ name: 'f/', size: 1 }), t.padded('x'))).toMatchObject({ mode: '100644', data: 'x' });
    });
  });

  test('prefixes: ustar 155 bytes, star 131, old star 155, GNU none, v7 none', () => {
    expect(one(t.header({ name: 'f', prefix: 'a/b' })).path).toBe('a/b/f');
    const long = 'p'.repeat(155);
    expect(one(t.header({ name: 'f', prefix: long })).path).toBe(`${long}/f`);
    const star = t.header({ name: 'f', prefix: `dir\0${'0'.repeat(127)}00000000000 00000000000 `, dialect: 'star' });
    expect(one(star).path).toBe('dir/f');
    expect(one(t.header({ name: 'f', prefix: 'a', dialect: 'old-star' })).path).toBe('a/f');
    expect(one(t.header({ name: 'f', prefix: '00000000000\x0000000000000\0', dialect: 'gnu' })).path).toBe('f');
    expect(one(t.header({ name: 'f', prefix: 'a', dialect: 'v7' })).path).toBe('f');
  });

  test('Go before 1.8 wrote a prefix under the GNU magic (golang.org/issue/12594)', () => {
    expect(one(t.header({ name: 'f', prefix: 'usr/share/x', dialect: 'gnu' })).path).toBe('usr/share/x/f');
  });

  test('old star keeps the device in one field', () => {
    expect(one(t.header({ name: 'c', type: '3', major: 4, minor: 64, dialect: 'old-star' })).rdev).toBe(
      encodeDevice(4, 64),
    );
  });

  test('base-256 numbers, negative times', () => {
    const parsed = one(t.header({ name: 'f', uid: 3_000_000_000, gid: 70_000, mtime: -86_400, base256: true }));
    expect(parsed).toMatchObject({ uid: 3_000_000_000, gid: 70_000, mtime: -86_400, mode: '100644' });
  });

  test('a size of 10 GiB in base-256, and that much data is demanded', () => {
    const entries = new EntryColumns();
    const parser = new TarParser({ entries });
    parser.push(t.header({ name: 'f', size: 10 * 2 ** 30 }));
    expect(entries.size(0)).toBe(10 * 2 ** 30);
    expect(() => parser.finish()).toThrow(/inside file data, 10737418240 bytes are missing/);
  });

  test('signed checksums are accepted, wrong ones are not', () => {
    const name = Buffer.from([0xff, 0xfe, 0x41]);
    expect(one(t.header({ name, checksum: 'signed' })).path).toBe('\xff\xfeA');
    expect(() => parse(t.header({ name: 'f', checksum: 1 }))).toThrow(FormatError);
    expect(() => parse(Buffer.from('not a tar, but long enough '.repeat(40)))).toThrow(
      /^tar header at byte 0: bad checksum/,
    );
  });

  test('the sum of a block of 0xff does not overflow', () => {
    const block = Buffer.alloc(512, 0xff);
    block.write('373410\0 ', 148, 'latin1'); // 504 * 0xff + 8 blanks
    expect(() => parse(block)).not.toThrow(/bad checksum/);
    block[153] = 0x31;
    expect(() => parse(block)).toThrow(/bad checksum/);
  });

  test.each([
    ['an unknown type', t.header({ name: 'f', type: '!' }), /unknown type/],
    [
      'a size that is no number',
      t.header({ name: 'f', patch: (b) => b.set(Buffer.from('xyz'), 124) }),
      /size field is not a number: "xyz/,
    ],
    ['a negative size', t.header({ name: 'f', size: -5 }), /negative size -5/],
    [
      'a huge size',
      t.header({ name: 'f', patch: (b) => b.fill(0xff, 125, 136) && b.fill(0x80, 124, 125) }),
      /beyond 2\^53/,
    ],
    ['a device beyond Linux', t.header({ name: 'c', type: '3', major: 5000 }), /device 5000:0/],
    ['a uid beyond 32 bits', t.header({ name: 'f', uid: 2 ** 33 }), /does not fit 32 bits/],
    ['a header after one block of zeros', Buffer.concat([new Uint8Array(512), t.file('f')]), /single block of zeros/],
    ['a long name of 2 MiB', t.header({ name: 'x', type: 'L', size: 2 << 20 }), /at most 1048576/],
  ])('%s is refused', (_, archive, message) => {
    expect(() => parse(archive)).toThrow(FormatError);
    expect(() => parse(archive)).toThrow(message);
  });

  test('a volume label is skipped, and what follows the end is ignored', () => {
    const archive = Buffer.concat([
      t.header({ name: 'label', type: 'V', dialect: 'gnu' }),
      t.tar(t.file('f')),
      Buffer.from('garbage'),
    ]);
    expect(parse(archive).map(({ path }) => path)).toEqual(['f']);
  });
});

describe('long names', () => {
  test('GNU L and K', () => {
    const long = 'n'.repeat(300);
    expect(
      one(
        t.gnuLong('L', long),
        t.gnuLong('K', 'k'.repeat(200)),
        t.header({ name: 'cut', type: '2', link: 'cut', dialect: 'gnu' }),
      ),
    ).toMatchObject({
      path: long,
      link: 'k'.repeat(200),
    });
  });

  test('they are for one entry only', () => {
    expect(parse(t.tar(t.gnuLong('L', 'long'), t.file('a'), t.file('b'))).map(({ path }) => path)).toEqual([
      'long',
      'b',
    ]);
    expect(parse(t.tar(t.pax({ path: 'long' }), t.file('a'), t.file('b'))).map(({ path }) => path)).toEqual([
      'long',
      'b',
    ]);
  });

  test('a GNU name beats a pax path, a pax path the header', () => {
    expect(one(t.pax({ path: 'pax' }), t.gnuLong('L', 'gnu'), t.header({ name: 'h' })).path).toBe('gnu');
  });
});

describe('pax', () => {
  test('an owner of -1 leaves root, as chown(2) does; others wrap', () => {
    const owner = (uid: string) => one(t.pax({ uid }), t.file('f', '')).uid;
    expect(['-1', '4294967295', '-2', '0'].map(owner)).toEqual([0, 0, 4_294_967_294, 0]);
  });

  test('path, linkpath, size, uid, gid, mtime', () => {
    const records = {
      path: 'näme',
      linkpath: 'ziel',
      size: 4,
      uid: 100_000,
      gid: 4_000_000_000,
      mtime: '1700000000.123456789',
    };
    const parsed = one(t.pax(records), t.header({ name: 'x', size: 0, mtime: 1 }), t.padded('data'));
    expect(parsed).toMatchObject({ path: latin1(Buffer.from('näme')), data: 'data', uid: 100_000, gid: 4_000_000_000 });
    expect(parsed).toMatchObject({ mtime: 1_700_000_000, nsec: 123_456_789 });
  });

  test.each([
    ['0', 0, 0],
    ['-1', -1, 0],
    ['-1.5', -2, 500_000_000],
    ['-0.000000001', -1, 999_999_999],
    ['12.', 12, 0],
    ['1.9999999999', 1, 999_999_999],
    ['253402300800.25', 253_402_300_800, 250_000_000],
  ])('mtime %s', (text, mtime, nsec) => {
    expect(one(t.pax({ mtime: text }), t.header({ name: 'f' }))).toMatchObject({ mtime, nsec });
  });

  test('leading zeros do not count against the digits of a number', () => {
    const zeros = '0'.repeat(40);
    const records = {
      path: 'f',
      size: `${zeros}999`,
      uid: `${zeros}1000`,
      gid: '+7',
      mtime: `-${zeros}1.5`,
      comment: 'c',
    };
    expect(one(t.pax(records), t.header({ name: 'x' }), t.padded('d'.repeat(999)))).toMatchObject({
      size: 999,
      uid: 1000,
      gid: 7,
      mtime: -2,
      nsec: 500_000_000,
    });
    // The length of a record counts its own zeros.
    const length = `${'0'.repeat(20)}34`;
    const record = `${length} path=zeros\n`;
    expect(record).toHaveLength(34);
    const header = t.header({ name: 'x', type: 'x', size: record.length });
    expect(one(header, t.padded(record), t.header({ name: 'f' })).path).toBe('zeros');
  });

  test.each([
    ['pax header', t.pax({ path: 'gone', size: 5 })],
    ['GNU long name', t.gnuLong('L', 'gone')],
    ['GNU long link', t.gnuLong('K', 'gone')],
    ['global pax header', t.pax({ mtime: 5 }, 'g')],
  ])('an archive may end after a %s', (_, last) => {
    for (const end of [new Uint8Array(0), new Uint8Array(512), new Uint8Array(1024)]) {
      expect(parse(Buffer.concat([t.file('f', 'abc'), last, end])).map(({ path }) => path)).toEqual(['f']);
    }
  });

  test.each([
    ['2^32, which chown(2) would make root', '4294967296'],
    ['2^32 + 5', '4294967301'],
    ['2^53 + 1', '9007199254740993'],
    ['2^64', '18446744073709551616'],
    ['below -2^31', '-2147483649'],
    ['a thousand digits', '9'.repeat(1000)],
  ])('an owner of %s is refused, in a pax record and in the header', (_, uid) => {
    for (const key of ['uid', 'gid']) {
      expect(() => one(t.pax({ [key]: uid }), t.file('f', ''))).toThrow(new RegExp(`${key} .*(32 bits|2\\^53)`));
    }
    if (BigInt(uid) < 2n ** 62n) {
      expect(() => one(t.header({ name: 'f', uid: Number(uid), base256: true }))).toThrow(/uid .*(32 bits|2\^53)/);
    }
  });

  test('a global header holds until overridden, and an empty value restores the header block', () => {
    const parsed = parse(
      t.tar(
        t.pax({ mtime: '5', uid: 7, comment: 'c' }, 'g'),
        t.header({ name: 'a', mtime: 1 }),
        t.pax({ mtime: '6.5' }),
        t.header({ name: 'b', mtime: 1 }),
        t.pax({ mtime: '' }),
        t.header({ name: 'c', mtime: 1 }),
        t.pax({ mtime: '8' }, 'g'),
        t.header({ name: 'd', mtime: 1 }),
        t.pax({ mtime: '' }, 'g'),
        t.header({ name: 'e', mtime: 1 }),
      ),
    );
    expect(parsed.map(({ mtime }) => mtime)).toEqual([5, 6, 1, 8, 1]);
    expect(parsed.map(({ uid }) => uid)).toEqual([7, 7, 7, 7, 7]);
  });

  test('hdrcharset=BINARY: names are bytes anyway', () => {
    const name = Buffer.from([0xff, 0x2f, 0x80]);
    expect(one(t.pax({ hdrcharset: 'BINARY', path: name }), t.header({ name: 'x' })).path).toBe('\xff/\x80');
  });

  test('xattrs: SCHILY raw, LIBARCHIVE encoded, SCHILY wins, empty ones are none', () => {
    const { xattrs } = one(
      t.pax([
        ['SCHILY.xattr.user.a', Buffer.from([0, 10, 61, 255])],
        ['LIBARCHIVE.xattr.user.%C3%A4', Buffer.from([1, 2]).toString('base64')],
        ['LIBARCHIVE.xattr.user.a', Buffer.from('other').toString('base64')],
        ['LIBARCHIVE.xattr.user.e', ''],
        ['SCHILY.xattr.user.empty', ''],
      ]),
      t.header({ name: 'f' }),
    );
    expect(xattrs).toEqual({ 'user.a': '\0\n=\xff', 'user.\xc3\xa4': '\x01\x02' });
  });

  test.each([
    ['no length', 'path=x\n'],
    ['a length beyond the payload', '99 path=x\n'],
    ['no newline', '9 path=xx'],
    ['no key', '5 =x\n'],
    ['no equals', '8 path\n\n'],
    ['a NUL in a path', '11 path=a\0b\n'],
    ['a length of zero', '0 path=x\n'],
  ])('%s is refused', (_, payload) => {
    const archive = t.tar(t.header({ name: 'x', type: 'x', size: payload.length }), t.padded(payload), t.file('f'));
    expect(() => parse(archive)).toThrow(/^pax header at byte/);
  });

  test('a global header of more than 4 KiB is refused, since every entry would repeat it', () => {
    const large = t.pax({ 'SCHILY.xattr.user.x': 'v'.repeat(5000) }, 'g');
    expect(() => parse(t.tar(large, t.file('f')))).toThrow(/at most 4096/);
    expect(parse(t.tar(t.pax({ comment: 'c'.repeat(5000) }, 'g'), t.file('f')))).toHaveLength(1);
  });

  test.each([
    ['size', '-1'],
    ['size', '1e3'],
    ['uid', 'root'],
    ['mtime', 'now'],
    ['mtime', '1.2.3'],
  ])('%s=%s is refused', (key, value) => {
    expect(() => parse(t.tar(t.pax({ [key]: value }), t.header({ name: 'f' })))).toThrow(FormatError);
  });
});

describe('sparse files', () => {
  const segments: t.Segments = [
    [0, 'a'.repeat(512)],
    [4096, 'b'.repeat(1000)],
    [10_000, 'c'],
    [20_480, 'd'.repeat(512)],
    [30_720, 'e'.repeat(512)],
    [40_960, 'f'.repeat(512)],
  ];
  const extents = segments.flatMap(([offset, data]) => [offset, t.bytes(data).length]);
  const data = segments.map(([, text]) => text).join('');

  test.each([
    ['old GNU with an extension block', t.gnuSparse('s', 50_000, segments)],
    ['GNU.sparse 0.0', t.paxSparse('0.0', 's', 50_000, segments)],
    ['GNU.sparse 0.1', t.paxSparse('0.1', 's', 50_000, segments)],
    ['GNU.sparse 1.0', t.paxSparse('1.0', 's', 50_000, segments)],
  ])('%s', (_, part) => {
    for (const chunk of [Number.POSITIVE_INFINITY, 1, 511]) {
      expect(parse(t.tar(part, t.file('after', 'x')), chunk)).toMatchObject([
        { path: 's', size: 50_000, extents, data },
        { path: 'after', data: 'x' },
      ]);
    }
  });

  test('many extension blocks, and a map of many blocks', () => {
    const many: t.Segments = Array.from({ length: 500 }, (_, i) => [i * 1024, 'x'.repeat(512)]);
    expect(one(t.gnuSparse('s', 1 << 20, many)).extents).toHaveLength(1000);
    expect(one(t.paxSparse('1.0', 's', 1 << 20, many)).extents).toHaveLength(1000);
  });

  test('all hole', () => {
    expect(one(t.gnuSparse('s', 3 * 2 ** 40, []))).toMatchObject({ size: 3 * 2 ** 40, extents: [] });
  });

  test.each([
    [
      'overlap',
      t.gnuSparse('s', 5000, [
        [0, 'aaa'],
        [1, 'b'],
      ]),
    ],
    ['a segment beyond the size', t.gnuSparse('s', 10, [[5, 'abcdefgh']])],
    [
      'an unknown version',
      Buffer.concat([
        t.pax({ 'GNU.sparse.major': 2, 'GNU.sparse.minor': 0, 'GNU.sparse.realsize': 1 }),
        t.header({ name: 'f' }),
      ]),
    ],
    [
      'no real size',
      Buffer.concat([t.pax({ 'GNU.sparse.map': '0,1' }), t.header({ name: 'f', size: 1 }), t.padded('x')]),
    ],
    [
      'an odd map',
      Buffer.concat([
        t.pax({ 'GNU.sparse.map': '0,1,2', 'GNU.sparse.size': 3 }),
        t.header({ name: 'f', size: 1 }),
        t.padded('x'),
      ]),
    ],
    [
      'data that the map does not speak of',
      Buffer.concat([
        t.pax({ 'GNU.sparse.map': '0,1', 'GNU.sparse.size': 3 }),
        t.header({ name: 'f', size: 2 }),
        t.padded('xx'),
      ]),
    ],
    [
      'a map longer than the entry',
      Buffer.concat([
        t.pax({ 'GNU.sparse.major': 1, 'GNU.sparse.minor': 0, 'GNU.sparse.realsize': 9 }),
        t.header({ name: 'f', size: 512 }),
        t.padded(`200\n${'0\n'.repeat(254)}`),
      ]),
    ],
  ])('%s is refused', (_, part) => {
    expect(() => parse(t.tar(part))).toThrow(FormatError);
  });
});
