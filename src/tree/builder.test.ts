import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as t from '../../test/support/tar.js';
import { ClipError } from '../bytes/index.js';
import { EntryColumns, TarParser } from '../tar/index.js';
import { type Tree, TreeBuilder } from './index.js';

function build(...layers: readonly Uint8Array[]): Tree {
  const builder = new TreeBuilder();
  layers.forEach((layer, i) => {
    const entries = new EntryColumns();
    const parser = new TarParser({ entries });
    parser.push(layer);
    parser.finish();
    builder.applyLayer(i, entries);
  });
  return builder.finish();
}

const TYPES = new Map([
  [0o100000, '-'],
  [0o040000, 'd'],
  [0o120000, 'l'],
  [0o020000, 'c'],
  [0o060000, 'b'],
  [0o010000, 'p'],
]);

/** "path type nlink": one line a name; "=n" numbers inodes that have several names; files carry the layer they came from. */
function list(tree: Tree): string[] {
  const lines: string[] = [];
  const shared: number[] = [];
  const visit = (directory: number, prefix: string): void => {
    for (let child = tree.childStart(directory); child < tree.childEnd(directory); child++) {
      const start = tree.childNameStart(child);
      const name = Buffer.from(
        tree.childNameArena(child).subarray(start, start + tree.childNameLength(child)),
      ).toString();
      const inode = tree.childInode(child);
      const type = TYPES.get(tree.mode(inode) & 0o170000)!;
      if (type === 'd') {
        lines.push(`${prefix}${name}/`);
        visit(inode, `${prefix}${name}/`);
        continue;
      }
      if (tree.nlink(inode) > 1 && !shared.includes(inode)) shared.push(inode);
      const same = tree.nlink(inode) > 1 ? ` =${shared.indexOf(inode)}x${tree.nlink(inode)}` : '';
      lines.push(`${prefix}${name} ${type}${tree.layer(inode)}${same}`);
    }
  };
  visit(tree.root, '');
  return lines;
}

function inodeAt(tree: Tree, path: string): number {
  let inode = tree.root;
  for (const name of path.split('/')) {
    let found = -1;
    for (let child = tree.childStart(inode); child < tree.childEnd(inode); child++) {
      const start = tree.childNameStart(child);
      if (
        Buffer.from(tree.childNameArena(child).subarray(start, start + tree.childNameLength(child))).toString() === name
      )
        found = tree.childInode(child);
    }
    expect(found, `${name} of ${path}`).toBeGreaterThanOrEqual(0);
    inode = found;
  }
  return inode;
}

describe('one layer', () => {
  test.each([
    [
      'paths are cleaned',
      [t.file('./a//b/../c', ''), t.file('/abs', ''), t.file('../../up', ''), t.file('x/./y', '')],
      ['a/', 'a/c -0', 'abs -0', 'up -0', 'x/', 'x/y -0'],
    ],
    [
      'a path that ends in .. or . names the directory before it',
      [t.dir('a/b/..', { mode: 0o700 }), t.dir('c/.')],
      ['a/', 'c/'],
    ],
    ['the last duplicate wins', [t.file('a', '1'), t.symlink('a', 'x')], ['a l0']],
    ['file over directory takes what is in it', [t.dir('a'), t.file('a/b', ''), t.file('a', '')], ['a -0']],
    ['directory over symlink', [t.symlink('a', 'b'), t.dir('a'), t.file('a/x', '')], ['a/', 'a/x -0']],
    [
      'a symlinked parent is followed',
      [t.dir('real'), t.symlink('l', 'real'), t.file('l/f', '')],
      ['l l0', 'real/', 'real/f -0'],
    ],
    [
      'inside the root, absolute or not',
      [t.symlink('l', '/x/y'), t.file('l/f', ''), t.symlink('m', '../../../z'), t.file('m/g', '')],
      ['l l0', 'm l0', 'x/', 'x/y/', 'x/y/f -0', 'z/', 'z/g -0'],
    ],
    [
      '.. of a symlink is where it leads, not where it stands',
      [t.symlink('a/l', 'x/../y'), t.symlink('a/x', '/far/away'), t.file('a/l/f', '')],
      ['a/', 'a/l l0', 'a/x l0', 'far/', 'far/away/', 'far/y/', 'far/y/f -0'],
    ],
    [
      'hard links, to later ones and in chains',
      [t.hardLink('z', 'y'), t.hardLink('y', 'x'), t.file('x', ''), t.hardLink('w', 'x')],
      ['w -0 =0x4', 'x -0 =0x4', 'y -0 =0x4', 'z -0 =0x4'],
    ],
    [
      'hard links to a symlink and a device',
      [t.symlink('s', 'x'), t.hardLink('h', 's'), t.char('c', 1, 3), t.hardLink('d', 'c')],
      ['c c0 =0x2', 'd c0 =0x2', 'h l0 =1x2', 's l0 =1x2'],
    ],
    [
      'a hard link that is replaced before its target comes',
      [t.hardLink('a', 'b'), t.file('a', ''), t.file('b', '')],
      ['a -0', 'b -0'],
    ],
    ['a hard link out of the directory it replaces', [t.file('a/b', ''), t.hardLink('a', 'a/b')], ['a -0']],
    [
      'aufs leftovers are ignored',
      [t.file('.wh..wh.aufs', ''), t.dir('.wh..wh.plnk'), t.file('.wh..wh.plnk/1.2', ''), t.file('a', '')],
      ['a -0'],
    ],
    [
      'hard links into plnk get its file',
      [t.file('.wh..wh.plnk/1.2', 'x'), t.hardLink('a', '.wh..wh.plnk/1.2'), t.hardLink('b', '/.wh..wh.plnk/1.2')],
      ['a -0 =0x2', 'b -0 =0x2'],
    ],
    ['0:0 devices go, and leave no name', [t.char('a', 0, 0), t.char('b', 0, 1), t.block('c', 0, 0)], ['b c0', 'c b0']],
    ['a directory called .wh.x is whiteout, one below it is not', [t.file('.wh.d/y', '')], ['.wh.d/', '.wh.d/y -0']],
  ])('%s', (_, parts, expected) => {
    expect(list(build(t.tar(...parts)))).toEqual(expected);
  });

  test.each([
    ['a file as a parent', [t.file('a', ''), t.file('a/b', '')], /"a\/b": its parent is not a directory/],
    ['a bare .wh.', [t.file('d/.wh.', '')], /names no file/],
    ['a whiteout of .', [t.file('d/.wh..', '')], /names no file/],
    ['a whiteout of ..', [t.file('d/.wh...', '')], /names no file/],
    ['a name of 256 bytes', [t.file('n'.repeat(256), '')], /a name of 256 bytes/],
    ['a parent of 256 bytes', [t.file(`${'n'.repeat(256)}/x`, '')], /a name of 256 bytes/],
    ['a symlink to nothing', [t.symlink('s', '')], /symlink target of 0 bytes/],
    ['a symlink of 4,096 bytes', [t.symlink('s', 'x'.repeat(4096))], /symlink target of 4096 bytes/],
    ['a hard link to nothing', [t.hardLink('h', 'x')], /target of the hard link does not exist/],
    ['hard links in a circle', [t.hardLink('a', 'b'), t.hardLink('b', 'a')], /leads back to itself/],
    ['a hard link to a directory', [t.dir('d'), t.hardLink('h', 'd')], /hard link to a directory/],
    ['symlinks in a circle', [t.symlink('a', 'b'), t.symlink('b', 'a'), t.file('a/x', '')], /more than 40 symlinks/],
  ])('%s is refused', (_, parts, message) => {
    expect(() => build(t.tar(t.dir('ok'), ...parts))).toThrow(ClipError);
    expect(() => build(t.tar(t.dir('ok'), ...parts))).toThrow(message);
    expect(() => build(t.tar(t.dir('ok'), ...parts))).toThrow(/^layer 1, tar entry \d+ "/);
  });

  test('implicit directories are 0755 root 0, and a later entry describes them', () => {
    const tree = build(t.tar(t.file('p/q/f', ''), t.dir('p', { mode: 0o700, uid: 5, mtime: 9 })));
    const p = inodeAt(tree, 'p');
    expect([tree.mode(p), tree.uid(p), tree.mtime(p), tree.nlink(p)]).toEqual([0o040700, 5, 9, 3]);
    const q = inodeAt(tree, 'p/q');
    expect([tree.mode(q), tree.uid(q), tree.gid(q), tree.mtime(q), tree.nlink(q), tree.layer(q)]).toEqual([
      0o040755, 0, 0, 0, 2, -1,
    ]);
  });

  test.each(['./', '/', '.', '', 'a/..', '../', '//./'])('the entry of the root itself is ignored: "%s"', (name) => {
    const options = { mode: 0o700, uid: 3, gid: 4, mtime: 5, xattrs: { 'user.r': 'oot' } };
    const tree = build(
      t.tar(t.file('first', ''), t.dir(name, options), t.file('last', '')),
      t.tar(t.dir(name, options)),
    );
    const { root } = tree;
    expect([tree.mode(root), tree.uid(root), tree.gid(root), tree.mtime(root)]).toEqual([0o040755, 0, 0, 0]);
    expect([tree.xattrs(root), tree.layer(root)]).toEqual([[], -1]);
    expect(list(tree)).toEqual(['first -0', 'last -0']);
    expect(tree.stats.namelessEntries).toBe(0);
  });

  test.each(['', '/', '.', './', 'a/..'])(
    'an entry called "%s" that is no directory is left out and counted',
    (name) => {
      const layer = t.tar(
        t.file('first', ''),
        t.pax({ path: name === '' ? './' : name }), // a file may have data, and keeps its type with a trailing slash
        t.header({ name: 'x', size: 3 }),
        t.padded('abc'),
        t.symlink(name, 'x'),
        t.hardLink(name, 'first'),
        t.fifo(name),
        t.file('last', ''),
      );
      const tree = build(layer);
      expect(list(tree)).toEqual(['first -0', 'last -0']);
      expect([tree.mode(tree.root), tree.stats.namelessEntries]).toEqual([0o040755, 4]);
    },
  );

  test('names of 255 bytes, paths of 4,096, names that are not UTF-8', () => {
    const deep = Array.from({ length: 2048 }, () => 'a').join('/');
    const tree = build(
      t.tar(t.file('n'.repeat(255), ''), t.file(`${deep}/`.slice(0, 4093), ''), t.file(Buffer.from([0xff, 0xfe]), '')),
    );
    expect(tree.stats.directories).toBe(2047);
  });

  test("overlayfs's own xattrs are dropped and counted", () => {
    const tree = build(
      t.tar(
        t.dir('d', { xattrs: { 'trusted.overlay.opaque': 'y', 'user.overlay.x': '1', 'trusted.x': '1' } }),
        t.char('c', 0, 0),
      ),
    );
    expect(tree.xattrs(inodeAt(tree, 'd')).map(({ name }) => Buffer.from(name).toString())).toEqual(['trusted.x']);
    expect(tree.stats).toMatchObject({ overlayXattrs: 2, whiteoutDevices: 1 });
  });
});

const lower = t.tar(
  t.dir('d', { mode: 0o700 }),
  t.file('d/x', ''),
  t.file('d/y', ''),
  t.dir('e'),
  t.file('e/deep/z', ''),
  t.file('f', ''),
  t.hardLink('g', 'f'),
  t.symlink('s', 'd'),
);
const LOWER = ['d/', 'd/x -0', 'd/y -0', 'e/', 'e/deep/', 'e/deep/z -0', 'f -0 =0x2', 'g -0 =0x2', 's l0'];
const without = (...gone: string[]): string[] =>
  LOWER.filter(
    (line) => !gone.some((name) => line === name || line.startsWith(`${name} `) || line.startsWith(`${name}/`)),
  );

describe('layers', () => {
  test.each([
    ['a whiteout of a file', [t.whiteout('d/x')], without('d/x')],
    ['of a directory', [t.whiteout('d')], without('d')],
    ['of one name of two', [t.whiteout('g')], [...without('f', 'g').slice(0, 6), 'f -0', 's l0']],
    ['of nothing', [t.whiteout('nothing'), t.whiteout('no/such/x')], LOWER],
    [
      'with the same name in its layer, before',
      [t.file('d/x', ''), t.whiteout('d/x')],
      LOWER.map((line) => (line === 'd/x -0' ? 'd/x -1' : line)),
    ],
    [
      'with the same name in its layer, after',
      [t.whiteout('d/x'), t.file('d/x', '')],
      LOWER.map((line) => (line === 'd/x -0' ? 'd/x -1' : line)),
    ],
    ['of a directory that comes again', [t.file('d/new', ''), t.whiteout('d')], [`d/`, 'd/new -1', ...without('d')]],
    ['of a directory and of what is in it', [t.whiteout('d/x'), t.whiteout('d')], without('d')],
    [
      'an opaque directory, marked last',
      [t.dir('d'), t.file('d/new', ''), t.opaque('d')],
      ['d/', 'd/new -1', ...without('d')],
    ],
    [
      'marked first, twice, without an entry of its own',
      [t.opaque('e'), t.opaque('e'), t.file('e/deep/n', '')],
      ['d/', 'd/x -0', 'd/y -0', 'e/', 'e/deep/', 'e/deep/n -1', ...LOWER.slice(6)],
    ],
    ['an opaque root', [t.opaque(''), t.file('e/n', '')], ['e/', 'e/n -1']],
    ['a file over a directory', [t.file('d', '')], ['d -1', ...without('d')]],
    ['a directory over a file', [t.dir('f')], [...LOWER.slice(0, 6), 'f/', 'g -0', 's l0']],
    ['a symlink over a directory', [t.symlink('d', 'e')], ['d l1', ...without('d')]],
    ['a directory over a symlink', [t.dir('s'), t.file('s/n', '')], [...LOWER.slice(0, 8), 's/', 's/n -1']],
    ['a directory over a directory keeps what is in it', [t.dir('d')], LOWER],
    ['a symlink of a lower layer is hidden, not followed', [t.file('s/n', '')], [...LOWER.slice(0, 8), 's/', 's/n -1']],
    ['a whiteout below a file of a lower layer hides nothing', [t.whiteout('f/x'), t.opaque('g')], LOWER],
    ['also by a whiteout', [t.whiteout('s/x')], [...LOWER.slice(0, 8), 's/']],
    [
      'also when a hard link of this layer names it',
      [t.hardLink('s2', 's'), t.file('s2/n', '')],
      [...LOWER.slice(0, 8), 's l0', 's2/', 's2/n -1'],
    ],
    ['a file of a lower layer too', [t.file('f/n', '')], [...LOWER.slice(0, 6), 'f/', 'f/n -1', 'g -0', 's l0']],
    [
      'a hard link to a lower layer',
      [t.hardLink('h', 'f')],
      [...LOWER.slice(0, 6), 'f -0 =0x3', 'g -0 =0x3', 'h -0 =0x3', 's l0'],
    ],
    [
      'through a symlink of a lower layer',
      [t.hardLink('h', 's/x')],
      ['d/', 'd/x -0 =0x2', 'd/y -0', 'e/', 'e/deep/', 'e/deep/z -0', 'f -0 =1x2', 'g -0 =1x2', 'h -0 =0x2', 's l0'],
    ],
    [
      'a hard link to what is whited out, in any order',
      [t.whiteout('d'), t.hardLink('h', 'd/x')],
      ['e/', 'e/deep/', 'e/deep/z -0', 'f -0 =0x2', 'g -0 =0x2', 'h -0', 's l0'],
    ],
    ['the target of a hard link replaced', [t.file('f', '')], [...LOWER.slice(0, 6), 'f -1', 'g -0', 's l0']],
    ['a hard link to itself', [t.hardLink('f', 'f')], LOWER],
  ])('%s', (_, parts, expected) => {
    expect(list(build(lower, t.tar(...parts)))).toEqual(expected);
  });

  test('a directory whited out and made again by its files alone is a new one', () => {
    const tree = build(lower, t.tar(t.file('d/new', ''), t.whiteout('d')));
    expect(tree.mode(inodeAt(tree, 'd')) & 0o7777).toBe(0o755);
  });

  test('parents that a layer does not describe keep what lower layers said', () => {
    const tree = build(lower, t.tar(t.file('d/new', '')));
    expect(tree.mode(inodeAt(tree, 'd')) & 0o7777).toBe(0o700);
  });

  test('127 layers, and the same layer twice', () => {
    const layers = Array.from({ length: 127 }, (_, i) => t.tar(t.file(`f${i % 3}`, ''), t.whiteout(`f${(i + 1) % 3}`)));
    expect(list(build(...layers))).toEqual(['f0 -126', 'f2 -125']);
    expect(list(build(lower, lower))).toEqual(LOWER.map((line) => line.replace('-0', '-1').replace('l0', 'l1')));
  });

  test('layers must come in order', () => {
    expect(() => new TreeBuilder().applyLayer(1, new EntryColumns())).toThrow(RangeError);
  });
});

describe('bounds', () => {
  // A layer of 110 KB with 1,000 paths of 10,000 levels took 1.95 GB to index, and its archive 78 MB.
  test('1,000 paths of 10,000 levels are refused', () => {
    const deep = 'a/'.repeat(10_000);
    const parts = Array.from({ length: 1000 }, (_, i) => t.file(`${i}/${deep}f`, ''));
    expect(() => build(t.tar(...parts))).toThrow(/"0\/a\/.*: a path of 20003 bytes, at most 4095/);
  });

  test('1,000 paths of 2,000 levels are refused: 2,000,000 directories', () => {
    const deep = 'a/'.repeat(2000);
    const parts = Array.from({ length: 1000 }, (_, i) => t.file(`${i}/${deep}f`, ''));
    expect(() => build(t.tar(...parts))).toThrow(/its paths imply more than 69536 directories/);
    // With an entry for each it is a big layer like any other.
    expect(build(t.tar(...parts.slice(0, 30))).stats.directories).toBe(30 * 2001 + 1);
  });

  test('symlinks do not lead to directories deeper than a path can name', () => {
    const parts = Array.from({ length: 3 }, (_, i) => [
      t.file(`${i === 0 ? '' : `l${i - 1}/`}${'d/'.repeat(1000)}f`, ''),
      t.symlink(`l${i}`, `${i === 0 ? '' : `l${i - 1}/`}${'d/'.repeat(1000)}`),
    ]).flat();
    expect(() => build(t.tar(...parts))).toThrow(/a directory 2049 levels deep, at most 2048/);
    expect(build(t.tar(...parts.slice(0, 4))).stats.directories).toBe(2001);
  });

  test('a path of 4,095 bytes is taken, one of 4,096 is not, in any spelling', () => {
    const parent = `${'p'.repeat(99)}/`.repeat(40);
    for (const spelling of [parent, `./${parent}`, `/${parent}./`, `${parent}x/../`]) {
      expect(list(build(t.tar(t.file(`${spelling}${'f'.repeat(95)}`, '')))).at(-1)).toMatch(/f -0$/);
      expect(() => build(t.tar(t.file(`${spelling}${'f'.repeat(96)}`, '')))).toThrow(/a path of 4096 bytes/);
      expect(() => build(t.tar(t.file(`${spelling}f`), t.file(`${spelling}${'f'.repeat(96)}`)))).toThrow(
        /of 4096 bytes/,
      );
    }
  });

  test('an image has at most 4,194,304 entries', () => {
    const million = new EntryColumns();
    million.count = 1024 * 1024 * 4 + 1;
    expect(() => new TreeBuilder().applyLayer(0, million)).toThrow(/have 4194305 entries, at most 4194304/);
  });

  test('symlinks cannot multiply the work without end', () => {
    const target = 'a/'.repeat(2000);
    const parts = [
      t.symlink('a', '.'),
      ...Array.from({ length: 39 }, (_, i) => t.symlink(`l${i}`, `${target}l${i + 1}`)),
    ];
    const many = Array.from({ length: 300 }, (_, i) => t.file(`${'./'.repeat(i)}l0/x${i}`, ''));
    expect(() => build(t.tar(...parts, ...many))).toThrow(/LIMIT|more than \d+ (steps|symlinks)|paths need/);
  });

  test('a chain of 100,000 hard links, and a directory 1,000 deep replaced', () => {
    const links = Array.from({ length: 20_000 }, (_, i) => t.hardLink(`l${i}`, `l${i + 1}`));
    expect(build(t.tar(...links, t.file('l20000', ''))).stats.directories).toBe(1);
    const deep = 'd/'.repeat(1000);
    expect(list(build(t.tar(t.file(`${deep}f`, '')), t.tar(t.file('d', ''))))).toEqual(['d -1']);
  });
});

/** A slow, obvious model: each layer is a map of paths; layers are stacked as overlayfs stacks directories. */
describe('against a model', () => {
  const name = fc.constantFrom('a', 'b', 'c');
  const path = fc.array(name, { minLength: 1, maxLength: 3 }).map((names) => names.join('/'));
  const operation = fc.tuple(fc.constantFrom('file', 'dir', 'whiteout', 'opaque'), path);

  function model(layers: readonly (readonly (readonly [string, string])[])[]): string[] {
    let merged = new Map<string, string>();
    layers.forEach((operations, index) => {
      const own = new Map<string, string>();
      const parents = (of: string): string[] =>
        of
          .split('/')
          .slice(0, -1)
          .map((_, i, all) => all.slice(0, i + 1).join('/'));
      const drop = (map: Map<string, string>, at: string): void => {
        for (const key of [...map.keys()]) if (key === at || key.startsWith(`${at}/`)) map.delete(key);
      };
      for (const [kind, at] of operations) {
        if (kind === 'whiteout' || kind === 'opaque') continue;
        for (const parent of parents(at)) if (!own.has(parent)) own.set(parent, 'implicit');
        if (kind === 'file') {
          drop(own, at);
          // Even if a directory follows: umoci has removed what was there by then. (Overlayfs would only see the directory.)
          drop(merged, at);
          own.set(at, `-${index}`);
        } else {
          if (own.get(at)?.startsWith('-')) drop(own, at);
          own.set(at, 'dir');
        }
      }
      for (const [kind, at] of operations) {
        if (kind === 'whiteout') drop(merged, at);
        if (kind === 'opaque') for (const key of [...merged.keys()]) if (key.startsWith(`${at}/`)) merged.delete(key);
      }
      const next = new Map(merged);
      for (const [at, kind] of own) {
        if (kind.startsWith('-') || merged.get(at)?.startsWith('-')) drop(next, at);
      }
      for (const [at, kind] of own) next.set(at, kind.startsWith('-') ? kind : 'dir');
      merged = next;
    });
    return [...merged].map(([at, kind]) => (kind === 'dir' ? `${at}/` : `${at} ${kind}`)).sort();
  }

  /** A file that would be a parent in its own layer is refused, and a whiteout below a lower file hides it: both are tested above. */
  function isPlain(layers: readonly (readonly (readonly [string, string])[])[]): boolean {
    return layers.every((operations) => {
      const files = new Set<string>();
      for (const [kind, at] of operations) {
        const names = at.split('/');
        for (let i = 1; i < names.length; i++) if (files.has(names.slice(0, i).join('/'))) return false;
        if (kind === 'file') files.add(at);
        if (kind === 'dir') files.delete(at);
        if ((kind === 'whiteout' || kind === 'opaque') && (names.length > 1 || kind === 'opaque')) {
          if (layers.some((other) => other.some(([k, p]) => k === 'file' && (at === p || at.startsWith(`${p}/`)))))
            return false;
        }
      }
      return true;
    });
  }

  test('files, directories, whiteouts and opaque directories in any order', () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(operation, { maxLength: 8 }), { minLength: 1, maxLength: 4 }).filter(isPlain),
        (layers) => {
          const tars = layers.map((operations) =>
            t.tar(
              ...operations.map(([kind, at]) => {
                if (kind === 'file') return t.file(at, 'x');
                if (kind === 'dir') return t.dir(at);
                return kind === 'whiteout' ? t.whiteout(at) : t.opaque(at);
              }),
            ),
          );
          expect(list(build(...tars)).sort()).toEqual(model(layers));
        },
      ),
      { numRuns: 2000 },
    );
  });
});
