import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { buildErofs } from '../../test/support/planes.js';
import * as t from '../../test/support/tar.js';
import { ClipError, crc32c, FormatError } from '../bytes/index.js';
import { EntryColumns, type EntryFields } from '../tar/index.js';
import { TreeBuilder } from '../tree/index.js';
import { EXTENDED_SIZE, LAYOUT_CHUNK_BASED, LAYOUT_FLAT_INLINE, LAYOUT_FLAT_PLAIN } from './format.js';
import { InodeView } from './inode.js';
import { ErofsReader } from './reader.js';
import { treeWarnings } from './warnings.js';
import { type ErofsImage, writeErofs } from './writer.js';

const latin1 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1');
const at = (reader: ErofsReader, path: string): number => reader.lookupPath(Buffer.from(path));

function names(reader: ErofsReader, nid: number, from = 0): string[] {
  const out: string[] = [];
  reader.readdir(nid, from, (_nid, _type, start, end) => {
    out.push(latin1(reader.image.subarray(start, end)));
    return true;
  });
  return out;
}

function pieces(reader: ErofsReader, nid: number, offset: number, length: number): [number, number, number][] {
  const out: [number, number, number][] = [];
  reader.mapRange(nid, offset, length, (layer, layerOffset, size) => out.push([layer, layerOffset, size]));
  return out;
}

function inode(reader: ErofsReader, path: string): InodeView {
  const view = new InodeView();
  reader.inode(at(reader, path), view);
  return view;
}

/** A tree of one invented layer: for what no tar in a test can hold. */
function fromEntries(
  entries: readonly (Partial<EntryFields> & { path: Uint8Array })[],
  blocks = 0xffff_ffff,
): ErofsImage {
  const columns = new EntryColumns();
  const none = { mode: 0o100644, uid: 0, gid: 0, mtime: 0, mtimeNsec: 0, size: 0, rdev: 0, dataOffset: 0 };
  for (const entry of entries) columns.add({ ...none, link: new Uint8Array(0), xattrs: null, extents: null, ...entry });
  const builder = new TreeBuilder();
  builder.applyLayer(0, columns);
  return writeErofs(builder.finish(), [{ tag: 'layer', blocks }]);
}

describe('lookups', () => {
  const list = [
    ...Array.from({ length: 500 }, (_, i) => `${'+-.~aé'[i % 6]}${i}${'y'.repeat((i * 7) % 200)}`),
    '-',
    '...',
    '.-',
    'z'.repeat(250),
  ];
  const { image } = buildErofs([t.tar(t.dir('d'), ...list.map((name) => t.file(`d/${name}`, 'x')))]);
  const reader = new ErofsReader(image);
  const directory = at(reader, 'd');

  test('readdir gives all names in bytewise order, . and .. among them', () => {
    const bytes = [...list, '.', '..'].map((name) => latin1(Buffer.from(name))).sort((a, b) => (a < b ? -1 : 1));
    expect(names(reader, directory)).toEqual(bytes);
  });

  test('each name is found, in the middle of other bytes too, and others are not', () => {
    reader.readdir(directory, 0, (nid, _type, start, end) => {
      expect(reader.lookup(directory, reader.image, start, end)).toBe(nid);
      return true;
    });
    for (const name of list) {
      for (const other of [`${name}!`, name.slice(0, -1), `!${name}`, `${name}\0`]) {
        const bytes = Buffer.from(other);
        expect(reader.lookup(directory, bytes, 0, bytes.length) >= 0).toBe(
          list.includes(other) || other === '.' || other === '..',
        );
      }
    }
    expect(reader.lookup(at(reader, 'd/-'), Buffer.from('x'), 0, 1)).toBe(-1);
  });

  test('. and .. lead where they should', () => {
    expect(at(reader, 'd/.')).toBe(directory);
    expect(at(reader, 'd/..')).toBe(reader.rootNid);
    expect(at(reader, '..')).toBe(reader.rootNid);
  });

  test('a listing can be resumed at every cookie', () => {
    const all = names(reader, directory);
    let cookie = 0;
    for (let done = 0; done < all.length; done++) {
      expect(names(reader, directory, cookie)).toEqual(all.slice(done));
      reader.readdir(directory, cookie, (_nid, _type, _start, _end, next) => {
        cookie = next;
        return false;
      });
    }
    expect(names(reader, directory, cookie)).toEqual([]);
  });

  test('the callback may use the reader', () => {
    const seen: string[] = [];
    reader.readdir(directory, 0, (_nid, _type, start, end) => {
      seen.push(latin1(reader.image.subarray(start, end)));
      at(reader, 'd/-');
      names(reader, reader.rootNid);
      return true;
    });
    expect(seen).toEqual(names(reader, directory));
  });
});

describe('data', () => {
  test('a dense file is one piece; any range of it is that part', () => {
    const layer = t.tar(t.dir('d'), t.file('f', 'x'.repeat(5000)));
    const reader = new ErofsReader(buildErofs([t.tar(), layer]).image);
    const nid = at(reader, 'f');
    expect(pieces(reader, nid, 0, 1e9)).toEqual([[1, 1024, 5000]]);
    expect(pieces(reader, nid, 4999, 10)).toEqual([[1, 1024 + 4999, 1]]);
    expect(pieces(reader, nid, 5000, 10)).toEqual([]);
    expect(inode(reader, 'f').layout).toBe(LAYOUT_CHUNK_BASED);
    expect(inode(reader, 'd').layout).toBe(LAYOUT_FLAT_INLINE);
  });

  test('an aligned sparse file is chunks and holes', () => {
    const { image, placement } = buildErofs([
      t.tar(
        t.gnuSparse('s', 100_000, [
          [4096, 'x'.repeat(8192)],
          [98_304, 'y'.repeat(1696)],
        ]),
      ),
    ]);
    const reader = new ErofsReader(image);
    expect(placement).toBeNull();
    expect(pieces(reader, at(reader, 's'), 0, 200_000)).toEqual([
      [-1, 0, 4096],
      [0, 512, 8192],
      [-1, 0, 98_304 - 12_288],
      [0, 512 + 8192, 1696],
    ]);
    expect(pieces(reader, at(reader, 's'), 5000, 100)).toEqual([[0, 512 + 904, 100]]);
  });

  test.each([
    [
      'unpadded segments',
      t.gnuSparse('s', 9000, [
        [0, 'odd'],
        [4096, 'x'.repeat(512)],
      ]),
      [
        [0, 3, 512],
        [4096, 512, 515],
      ],
    ],
    [
      'a segment that ends inside a block before a hole',
      t.gnuSparse('s', 9000, [[512, 'x'.repeat(700)]]),
      [[512, 700, 512]],
    ],
    ['more than 65,536 chunks', t.gnuSparse('s', 3 * 2 ** 40, [[512, 'x'.repeat(512)]]), [[512, 512, 512]]],
  ])('%s go to the placement, and the inode is a hole', (_, part, expected) => {
    const { image, placement, stats } = buildErofs([t.tar(t.file('a', '1'), t.file('z', '2')), t.tar(part)]);
    const reader = new ErofsReader(image);
    const nid = at(reader, 's');
    expect(stats.placedFiles).toBe(1);
    const found = Array.from({ length: placement!.count }, (_, i) => {
      expect([placement!.nid[i], placement!.layer[i]]).toEqual([nid, 1]);
      return [placement!.fileOffset[i]!, placement!.length[i]!, placement!.layerOffset[i]!];
    });
    expect(found.map(([fileOffset, length]) => [fileOffset, length])).toEqual(
      expected.map(([fileOffset, length]) => [fileOffset, length]),
    );
    expect(pieces(reader, nid, 0, 1e15)).toEqual([[-1, 0, inode(reader, 's').size]]);
  });

  test('data that is not aligned (v1 archives) goes to the placement; a file beyond 1 TiB takes two chunks', () => {
    const { image, placement } = fromEntries([
      { path: Buffer.from('odd'), size: 10, dataOffset: 7 },
      { path: Buffer.from('big'), size: 2 ** 40 + 512, dataOffset: 512 },
    ]);
    const reader = new ErofsReader(image);
    expect(placement).toMatchObject({
      count: 1,
      nid: Float64Array.of(at(reader, 'odd')),
      layerOffset: Float64Array.of(7),
    });
    expect(pieces(reader, at(reader, 'big'), 2 ** 40 - 1, 2)).toEqual([[0, 2 ** 40 + 511, 2]]);
  });

  test('beyond 64 TiB is refused by its limit', () => {
    expect(() => fromEntries([{ path: Buffer.from('f'), size: 2 ** 46 + 1, extents: [] }])).toThrow(
      /at most 70368744177664/,
    );
    const { image } = fromEntries([{ path: Buffer.from('f'), size: 2 ** 46, extents: [] }]);
    expect(pieces(new ErofsReader(image), at(new ErofsReader(image), 'f'), 0, 2 ** 47)).toEqual([[-1, 0, 2 ** 46]]);
  });
});

describe('inodes', () => {
  test('the commonest mtime makes inodes compact, where nothing is lost', () => {
    const { image, stats } = buildErofs([
      t.tar(
        t.dir('./'),
        t.file('a'),
        t.file('b', '', { uid: 70_000 }),
        t.file('c', '', { mtime: 5 }),
        t.file('d', '', { mtime: '1700000000.5' }),
        t.dir('e'),
      ),
    ]);
    expect(stats).toMatchObject({ inodes: 6, compactInodes: 2, directories: 2 });
    const reader = new ErofsReader(image);
    expect(['a', 'b', 'c', 'd'].map((name) => [inode(reader, name).mtime, inode(reader, name).mtimeNsec])).toEqual([
      [t.MTIME, 0],
      [t.MTIME, 0],
      [5, 0],
      [t.MTIME, 500_000_000],
    ]);
    expect(inode(reader, 'b').uid).toBe(70_000);
  });

  test('symlinks of every length up to the longest', () => {
    const lengths = [1, 60, 383, 384, 385, 447, 448, 449, 480, 511, 512, 513, 960, 1024, 1500, 4095];
    for (const mtime of [t.MTIME, 7]) {
      const { image } = buildErofs([
        t.tar(t.dir('./'), t.file('x'), ...lengths.map((n) => t.symlink(`l${n}`, 'x'.repeat(n), { mtime }))),
      ]);
      const reader = new ErofsReader(image);
      for (const n of lengths) expect(latin1(reader.readlink(at(reader, `l${n}`)))).toBe('x'.repeat(n));
    }
  });

  test('inline data never crosses a block, and no inode has nid 0 or 1 or overlaps another', () => {
    const parts = Array.from({ length: 400 }, (_, i) => [
      t.dir(`d${i}`, { mtime: i % 3 }),
      t.file(`d${i}/${'n'.repeat(1 + (i % 250))}`, 'x'.repeat(i % 2)),
      t.symlink(`s${i}`, 'y'.repeat(1 + i)),
    ]);
    const { image, nids } = buildErofs([t.tar(...parts.flat())]);
    const reader = new ErofsReader(image);
    const view = new InodeView();
    const ends: [number, number][] = [];
    for (const nid of [...nids].filter((n) => n > 0)) {
      reader.inode(nid, view);
      expect(nid).toBeGreaterThan(1);
      let end = view.tail;
      if (view.layout === LAYOUT_FLAT_INLINE) {
        end += view.size % 512;
        expect(Math.floor((end - 1) / 512)).toBe(Math.floor(view.tail / 512));
      }
      if (view.layout === LAYOUT_CHUNK_BASED) end = Math.ceil(view.tail / 8) * 8 + 8;
      ends.push([nid * 32, end]);
    }
    ends.sort((a, b) => a[0] - b[0]);
    for (let i = 1; i < ends.length; i++) expect(ends[i]![0]).toBeGreaterThanOrEqual(ends[i - 1]![1]);
  });

  test('times before 1970, large ids, devices', () => {
    const reader = new ErofsReader(
      buildErofs([t.tar(t.file('old', '', { mtime: '-1.5', uid: 4_000_000_000 }), t.char('c', 4095, 1_048_575))]).image,
    );
    expect(inode(reader, 'old')).toMatchObject({ mtime: -2, mtimeNsec: 500_000_000, uid: 4_000_000_000 });
    const device = inode(reader, 'c');
    expect([device.rdevMajor, device.rdevMinor]).toEqual([4095, 1_048_575]);
  });
});

describe('xattrs', () => {
  const acl = Buffer.from('0200000001000700ffffffff04000500ffffffff20000500ffffffff', 'hex');
  const get = (reader: ErofsReader, path: string): Record<string, string> => {
    const nid = at(reader, path);
    const list = latin1(reader.listXattr(nid)).split('\0').slice(0, -1);
    return Object.fromEntries(list.map((name) => [name, latin1(reader.getXattr(nid, Buffer.from(name, 'latin1'))!)]));
  };

  test('are listed and found, and shared', () => {
    const many = Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`user.n${i}`, `v${i}`]));
    const xattrs = { 'user.a': 'b', 'trusted.t': 'x', 'security.capability': 'cap', 'system.posix_acl_access': acl };
    const { image, stats } = buildErofs([
      t.tar(
        t.file('f', 'data', { xattrs }),
        t.dir('d', { xattrs }),
        t.symlink('s', 'f', { xattrs: { 'trusted.l': '1' } }),
        t.file('many', '', { xattrs: many }),
        t.file('odd', '', { xattrs: { 'btrfs.x': '1', 'com.apple.y': '2', [`user.${'n'.repeat(251)}`]: '3' } }),
        t.file('long', '', { xattrs: { [`user.${'n'.repeat(250)}`]: '4' } }),
      ),
    ]);
    const reader = new ErofsReader(image);
    expect(get(reader, 'f')).toEqual({ ...xattrs, 'system.posix_acl_access': latin1(acl) });
    expect(get(reader, 'd')).toEqual(get(reader, 'f'));
    expect(get(reader, 's')).toEqual({ 'trusted.l': '1' });
    expect(get(reader, 'many')).toEqual(many);
    expect(get(reader, 'odd')).toEqual({});
    expect(Object.keys(get(reader, 'long'))).toEqual([`user.${'n'.repeat(250)}`]);
    expect(stats.droppedXattrs).toBe(3);
    expect(treeWarnings(stats)).toEqual([expect.stringMatching(/^3 xattrs left out/)]);
    expect(reader.getXattr(at(reader, 'f'), Buffer.from('user.none'))).toBeNull();
    expect([reader.hasXattrs, reader.hasPosixAcl]).toEqual([true, true]);
    // Stored once for both.
    expect(latin1(image).split('capability').length).toBe(2);
  });

  test('the image knows whether it has any', () => {
    const none = new ErofsReader(buildErofs([t.tar(t.file('f'))]).image);
    const some = new ErofsReader(buildErofs([t.tar(t.file('f', '', { xattrs: { 'user.x': '1' } }))]).image);
    expect([none.hasXattrs, none.hasPosixAcl, some.hasXattrs, some.hasPosixAcl]).toEqual([false, false, true, false]);
  });
});

const SAMPLE = [
  t.tar(
    t.dir('./'),
    t.file('a', 'hello', { xattrs: { 'user.x': 'y' } }),
    t.symlink('s', 'a'),
    t.hardLink('h', 'a'),
    t.dir('d'),
    t.file('d/f', '', { mtime: 5 }),
  ),
  t.tar(
    t.char('c', 5, 1),
    t.symlink('long', 'l'.repeat(1500)),
    t.whiteout('d/f'),
    t.gnuSparse('sparse', 100_000, [[4096, 'x'.repeat(512)]]),
  ),
];

describe('the image', () => {
  test('is the same for the same layers, whatever the chunking', () => {
    const digests = [Number.POSITIVE_INFINITY, 1, 700].map((chunk) =>
      createHash('sha256').update(buildErofs(SAMPLE, { chunk }).image).digest('hex'),
    );
    // Changing this digest changes the identity of every archive: say so in the changelog.
    expect(new Set(digests)).toEqual(new Set(['9835e69b1647df371e0036cd5f37ea7fa3496fa3848e60b8856166e83fe75a2d']));
  });

  test('names its devices', () => {
    const reader = new ErofsReader(buildErofs(SAMPLE).image);
    expect(reader.deviceTags).toEqual(['layer0', 'layer1']);
    expect(reader.deviceBytes).toEqual(SAMPLE.map((layer) => layer.length));
    expect(new ErofsReader(buildErofs(Array.from({ length: 127 }, () => t.tar())).image).deviceBytes).toHaveLength(127);
  });

  test('reads the same from shared memory and from the middle of a buffer', () => {
    const { image } = buildErofs(SAMPLE);
    const shared = new Uint8Array(new SharedArrayBuffer(image.length + 13)).subarray(13);
    shared.set(image);
    const reader = new ErofsReader(shared);
    expect(names(reader, reader.rootNid)).toEqual(names(new ErofsReader(image), reader.rootNid));
    expect(latin1(reader.readlink(at(reader, 'long')))).toBe('l'.repeat(1500));
  });

  test('in blocks of 4096 reads the same', () => {
    const small = new ErofsReader(buildErofs(SAMPLE).image);
    const large = new ErofsReader(buildErofs(SAMPLE, { blockSize: 4096 }).image);
    expect(names(large, large.rootNid)).toEqual(names(small, small.rootNid));
    expect(latin1(large.readlink(at(large, 'long')))).toBe('l'.repeat(1500));
    expect(inode(large, 'h')).toMatchObject({ size: 5, nlink: 2 });
  });

  test.each([
    ['too short', (b: Uint8Array) => b.subarray(0, 1100), /too short/],
    ['another magic', (b: Uint8Array) => b.fill(0, 1024, 1025), /magic/],
    ['a flipped bit in its block', (b: Uint8Array) => b.fill(b[1200]! ^ 1, 1200, 1201), /checksum/],
    ['an unknown feature', (b: Uint8Array) => b.fill(0x80, 1024 + 81, 1024 + 82), /incompatible features/],
    ['blocks of 64 KiB', (b: Uint8Array) => b.fill(16, 1036, 1037), /block bits 16/],
  ])('%s is refused', (_, damage, message) => {
    const bytes = damage(buildErofs(SAMPLE).image.slice());
    expect(() => new ErofsReader(bytes)).toThrow(FormatError);
    expect(() => new ErofsReader(bytes)).toThrow(message);
  });

  test('nids outside of it are refused', () => {
    const reader = new ErofsReader(buildErofs(SAMPLE).image);
    for (const nid of [-1, 0.5, Number.NaN, 1e6, 2 ** 53])
      expect(() => reader.inode(nid, new InodeView()), String(nid)).toThrow(FormatError);
    expect(() => reader.readdir(at(reader, 'a'), 0, () => true)).toThrow(/not a directory/);
    expect(() => reader.readlink(at(reader, 'a'))).toThrow(/not a symlink/);
    expect(() => pieces(reader, at(reader, 'd'), 0, 1)).toThrow(/not a regular file/);
  });

  test('a directory in a cycle, a name out of place: refused or bounded, not followed for ever', () => {
    const { image } = buildErofs(SAMPLE);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 1152, max: image.length - 1 }), fc.nat(255)), {
          minLength: 1,
          maxLength: 10,
        }),
        (changes) => {
          const damaged = image.slice();
          for (const [where, value] of changes) damaged[where] = value;
          damaged.fill(0, 1028, 1032);
          new DataView(damaged.buffer).setUint32(1028, crc32c(damaged.subarray(1024, 1536)), true);
          try {
            const reader = new ErofsReader(damaged);
            for (const name of names(reader, reader.rootNid)) {
              const nid = reader.lookup(reader.rootNid, Buffer.from(name, 'latin1'), 0, name.length);
              if (nid < 0) continue;
              const view = new InodeView();
              reader.inode(nid, view);
              reader.listXattr(nid);
              if (view.isFile) pieces(reader, nid, 0, view.size);
              if (view.isSymlink) reader.readlink(nid);
              if (view.isDirectory) names(reader, nid);
            }
          } catch (error) {
            expect(error).toBeInstanceOf(FormatError);
          }
        },
      ),
      { numRuns: 2000 },
    );
  });

  test('a layer beyond 2 TiB is refused', () => {
    expect(() => fromEntries([], 2 ** 32)).toThrow(ClipError);
  });

  test('an extended inode is 64 bytes', () => {
    const reader = new ErofsReader(
      fromEntries([{ path: Buffer.from('a'), mtime: 5 }, { path: Buffer.from('b') }]).image,
    );
    const view = inode(reader, 'a');
    expect(view.xattrStart - view.nid * 32).toBe(EXTENDED_SIZE);
    expect(view.layout).toBe(LAYOUT_FLAT_PLAIN);
  });
});

describe('whatever tree is written is read back', () => {
  const name = fc
    .uint8Array({ minLength: 1, maxLength: 40 })
    .filter((b) => !b.includes(0x2f) && !b.includes(0) && b[0] !== 0x2e);
  test('names, sizes, places', () => {
    fc.assert(
      fc.property(fc.uniqueArray(name, { maxLength: 120, selector: (b) => latin1(b) }), fc.nat(5), (list, depth) => {
        const prefix = 'dir/'.repeat(depth);
        const entries = list.map((b, i) => ({
          path: Buffer.concat([Buffer.from(prefix), b]),
          size: i * 100,
          dataOffset: i * 51_200,
          mtime: i % 4,
        }));
        const reader = new ErofsReader(fromEntries(entries).image);
        const directory = at(reader, prefix);
        if (depth === 0 || list.length > 0) {
          const expected = [
            ...list.map((b) => latin1(b)),
            ...(depth > 0 || list.length > 0 ? ['.', '..'] : ['.', '..']),
          ];
          expect(names(reader, directory)).toEqual(expected.sort((a, b) => (a < b ? -1 : 1)));
        }
        list.forEach((b, i) => {
          const nid = reader.lookup(directory, b, 0, b.length);
          expect(pieces(reader, nid, 0, 1e9)).toEqual(i === 0 ? [] : [[0, i * 51_200, i * 100]]);
        });
      }),
      { numRuns: 150 },
    );
  });
});
