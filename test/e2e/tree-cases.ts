import * as t from '../support/tar.js';

/** Layers, and the answers of the oracles. */
export interface OracleCase {
  readonly name: string;
  readonly layers: readonly Uint8Array[];
  /**
   * Differences of umoci, as "path: field", and why we are right; 'refuses' if it cannot unpack the layer at all.
   * Absent: it shows the same, down to every field.
   */
  readonly umoci?: { readonly differs: readonly string[] | 'refuses'; readonly why: string };
  /** The same for overlayfs over layers extracted by GNU tar. 'skip': it has no say, for the reason given. */
  readonly overlay: { readonly differs: readonly string[] | 'skip'; readonly why?: string };
}

const root = t.dir('./');
const ACL = Buffer.from(
  '0200000001000700ffffffff02000500e803000004000500ffffffff10000500ffffffff20000500ffffffff',
  'hex',
);
const CAPABILITY = Buffer.from('0100000200200000000000000000000000000000', 'hex');
const AGREES = { differs: [] } as const;
const MADE =
  'a directory that no layer names has no times; docs/architecture.md, "The tree is an EROFS image", gives it mtime 0 so that the same image gives the same tree';
const skip = (why: string): { differs: 'skip'; why: string } => ({ differs: 'skip', why });
const WHITEOUT_ORDER = skip('a directory and its whiteout cannot both stand in one extracted layer');

export const CASES: readonly OracleCase[] = [
  {
    name: 'types, modes, owners, times',
    layers: [
      t.tar(
        t.dir('./', { mode: 0o711, uid: 3 }),
        t.dir('sgid', { mode: 0o2755 }),
        t.dir('d', { mode: 0o1777, uid: 70_000, gid: 4_000_000_000 }),
        t.file('d/suid', 'hello', { mode: 0o4755, uid: 1000, gid: 70_000 }),
        t.symlink('d/s', 'suid', { uid: 5 }),
        t.char('d/c', 5, 300),
        t.block('d/b', 259, 70_000),
        t.fifo('d/p', { mode: 0o600 }),
        t.symlink('long', 'x/'.repeat(1000)),
        t.file('before-1970', 'n', { mtime: '-1.5' }),
        t.file('nanoseconds', 'n', { mtime: '1700000000.123456789' }),
        t.file('empty'),
        t.file('big', Buffer.alloc(300_000, 'clip')),
      ),
    ],
    overlay: AGREES,
  },
  {
    name: 'names',
    layers: [
      t.tar(
        root,
        t.file('é', 'x'),
        t.file(Buffer.from([0x61, 0xff, 0xfe]), 'bytes'),
        t.file('n'.repeat(255), 'long'),
        t.dir('many'),
        ...Array.from({ length: 300 }, (_, i) => t.file(`many/${'+-.~a'[i % 5]}${i}${'y'.repeat(i % 200)}`, String(i))),
        t.dir('.-'),
        ...Array.from({ length: 15 }, (_, i) => t.dir(`${'p'.repeat(249)}/`.repeat(i + 1))),
        t.file(`${`${'p'.repeat(249)}/`.repeat(15)}deep`, 'a path of 3,754 bytes'),
        t.file('-', ''),
        t.file('...', ''),
      ),
    ],
    overlay: AGREES,
  },
  {
    name: 'paths are cleaned',
    layers: [
      t.tar(
        root,
        t.dir('x'),
        t.file('./x//y/../z', '1'),
        t.dir('abs'),
        t.file('/abs/f', '2'),
        t.file('../../up', '3'),
        t.file('x/./b', '4'),
      ),
    ],
    overlay: skip('GNU tar skips entries with ".." in their names'),
  },
  {
    name: 'xattrs',
    layers: [
      t.tar(
        root,
        t.file('f', '1', {
          xattrs: { 'user.x': 'value', 'security.capability': CAPABILITY, 'trusted.y': Buffer.from([0, 1, 61, 10]) },
        }),
        t.file('same', '2', { xattrs: { 'user.x': 'value', 'security.capability': CAPABILITY } }),
        t.dir('d', { mode: 0o755, xattrs: { 'system.posix_acl_default': ACL, 'system.posix_acl_access': ACL } }),
        t.file('large', '', { xattrs: { 'user.large': Buffer.alloc(2500, 'v') } }),
      ),
    ],
    overlay: skip("GNU tar's --xattrs leaves POSIX ACLs to --acls"),
  },
  {
    name: 'xattrs with empty values',
    layers: [t.tar(root, t.file('f', '1', { xattrs: { 'user.empty': '', 'user.x': '1' } }))],
    overlay: {
      differs: ['f: xattrs'],
      why: 'GNU tar sets an empty xattr. POSIX pax: "If the <value> field is zero length, it shall delete any header block field, previously entered extended header value, or global extended header value of the same name"',
    },
  },
  {
    name: "overlayfs's own xattrs and devices",
    layers: [
      t.tar(
        root,
        t.file('f', '1', { xattrs: { 'user.overlay.x': '1', 'trusted.overlay.redirect': '/f', 'user.x': '1' } }),
      ),
      t.tar(root, t.char('gone', 0, 0)),
    ],
    umoci: {
      differs: ['f: xattrs', 'gone: missing'],
      why: 'they would steer an overlayfs on top of ours (docs/architecture.md, "The tree is an EROFS image")',
    },
    overlay: skip('it is steered by them'),
  },
  {
    name: 'hard links',
    layers: [
      t.tar(
        root,
        t.file('a', '1', { mode: 0o600, mtime: 5 }),
        t.hardLink('b', 'a', { mode: 0o777, mtime: 99, uid: 7 }),
        t.hardLink('c', './b'),
        t.symlink('s', 'a'),
        t.hardLink('hs', 's'),
        t.char('dev', 1, 3),
        t.hardLink('hdev', '/dev'),
      ),
    ],
    overlay: AGREES,
  },
  {
    name: 'hard links to a lower layer, and what is left when one name goes',
    layers: [
      t.tar(root, t.file('a', '1'), t.hardLink('b', 'a'), t.hardLink('c', 'a')),
      t.tar(root, t.hardLink('d', 'a'), t.file('b', 'new')),
      t.tar(root, t.whiteout('a')),
    ],
    overlay: skip('GNU tar cannot link to what is in another layer'),
  },
  {
    name: 'hard links to later entries',
    layers: [t.tar(root, t.hardLink('b', 'a'), t.hardLink('c', 'b'), t.file('a', '1'))],
    umoci: {
      differs: 'refuses',
      why: 'tar(5) lets a link stand before its target (star and libarchive restore it); nothing else it could mean',
    },
    overlay: skip('GNU tar refuses too'),
  },
  {
    name: 'whiteouts',
    layers: [
      t.tar(
        root,
        t.dir('a'),
        t.file('a/x', '1'),
        t.file('a/y', '2'),
        t.dir('b'),
        t.file('b/z', '3'),
        t.dir('c'),
        t.dir('c/d'),
        t.file('c/d/e', ''),
      ),
      t.tar(root, t.dir('a'), t.whiteout('a/x'), t.dir('b'), t.opaque('b'), t.file('b/new', '4'), t.whiteout('c')),
    ],
    overlay: AGREES,
  },
  {
    name: 'a whiteout in a directory that the layer does not name',
    layers: [
      t.tar(root, t.dir('a', { mode: 0o700 }), t.file('a/x', '1'), t.file('a/y', '')),
      t.tar(root, t.whiteout('a/x')),
    ],
    overlay: {
      differs: ['a: mode', 'a: mtime'],
      why: 'the extracted layer has a directory made up by GNU tar; runtimes and umoci keep what the lower layer says',
    },
  },
  {
    name: 'whiteouts of nothing',
    layers: [t.tar(root, t.file('f', '')), t.tar(root, t.whiteout('nothing'), t.whiteout('no/such/x'))],
    overlay: skip('overlayfs lists the whiteouts of a directory that it has nothing to merge with'),
  },
  {
    name: 'an opaque root, marked last',
    layers: [t.tar(root, t.dir('a'), t.file('a/x', '1')), t.tar(root, t.dir('b'), t.file('b/y', '2'), t.opaque(''))],
    overlay: skip('overlayfs has no opaque root'),
  },
  {
    name: 'whiteout and same-named file in one layer, in both orders',
    layers: [
      t.tar(root, t.file('f', 'old'), t.file('g', 'old')),
      t.tar(root, t.file('f', 'new'), t.whiteout('f'), t.whiteout('g'), t.file('g', 'new')),
    ],
    overlay: WHITEOUT_ORDER,
  },
  {
    name: 'whiteout and same-named directory in one layer',
    layers: [
      t.tar(root, t.dir('a'), t.file('a/x', '1')),
      t.tar(root, t.dir('a', { mode: 0o700 }), t.file('a/y', '2'), t.whiteout('a'), t.dir('late')),
    ],
    umoci: {
      differs: ['a: mtime'],
      why: 'umoci deletes from a directory of this layer and leaves the time of the deletion on it',
    },
    overlay: WHITEOUT_ORDER,
  },
  {
    name: 'whiteout of a directory that the layer has files in but does not name',
    layers: [
      t.tar(root, t.dir('a', { mode: 0o700, mtime: 5 }), t.file('a/x', '1')),
      t.tar(root, t.file('a/y', '2'), t.whiteout('a')),
    ],
    umoci: {
      differs: ['a: mode', 'a: mtime'],
      why: 'umoci keeps the mode of the directory that is whited out. image-spec layer.md: "whiteout files … only apply to resources in lower/parent layers": the lower directory is gone with its mode, what is there is new',
    },
    overlay: WHITEOUT_ORDER,
  },
  {
    name: 'a whiteout below a whiteout',
    layers: [t.tar(root, t.dir('a'), t.file('a/x', '1')), t.tar(root, t.whiteout('a/x'), t.whiteout('a'))],
    overlay: WHITEOUT_ORDER,
  },
  {
    name: 'a whiteout that is a directory, and a name below one',
    layers: [
      t.tar(root, t.dir('d'), t.file('d/x', ''), t.dir('e')),
      t.tar(root, t.dir('.wh.d'), t.dir('.wh.e2'), t.file('e/.wh.none', '')),
    ],
    overlay: skip('the conversion treats any .wh. name as a whiteout, and there is nothing to merge'),
  },
  {
    name: 'every kind over every kind',
    layers: [
      t.tar(
        root,
        t.file('file-dir', '1'),
        t.file('file-link', '1'),
        t.dir('dir-file'),
        t.file('dir-file/x', '1'),
        t.dir('dir-link'),
        t.file('dir-link/x', ''),
        t.symlink('link-dir', 'dir-file'),
        t.symlink('link-file', 'dir-file'),
        t.fifo('fifo-file'),
      ),
      t.tar(
        root,
        t.dir('file-dir'),
        t.symlink('file-link', 'x'),
        t.file('dir-file', 'f'),
        t.symlink('dir-link', 'x'),
        t.dir('link-dir'),
        t.file('link-dir/in', ''),
        t.file('link-file', 'f'),
        t.file('fifo-file', 'f'),
      ),
    ],
    overlay: AGREES,
  },
  {
    name: 'duplicates in one layer: the last wins',
    layers: [
      t.tar(
        root,
        t.file('a', '1'),
        t.file('a', '22'),
        t.dir('d'),
        t.file('d/x', '1'),
        t.file('d', 'f'),
        t.symlink('e', 'a'),
        t.dir('e'),
        t.dir('twice', { mode: 0o700 }),
        t.file('twice/x', ''),
        t.dir('twice', { mode: 0o711 }),
      ),
    ],
    overlay: skip('GNU tar does not replace a directory with a file'),
  },
  {
    name: 'a symlinked parent made earlier in the same layer is followed, inside the root',
    layers: [
      t.tar(
        root,
        t.dir('real'),
        t.symlink('lnk', 'real'),
        t.file('lnk/f', '1'),
        t.symlink('abs', '/real'),
        t.file('abs/g', '2'),
        t.symlink('esc', '../../../real'),
        t.file('esc/h', '3'),
      ),
    ],
    overlay: skip('GNU tar does not follow links that leave the directory it extracts to'),
  },
  {
    name: 'a symlink of a lower layer is hidden by a directory',
    layers: [
      t.tar(root, t.dir('real'), t.symlink('lnk', 'real')),
      t.tar(root, t.dir('lnk'), t.file('lnk/f', '1')),
      t.tar(root),
    ],
    overlay: AGREES,
  },
  {
    name: 'a symlink of a lower layer is hidden by what an upper layer has below its name',
    layers: [t.tar(root, t.dir('real'), t.symlink('lnk', 'real')), t.tar(root, t.file('lnk/f', '1'))],
    umoci: {
      differs: [
        '.: nlink',
        'lnk/f: extra',
        'lnk: link',
        'lnk: mode',
        'lnk: mtime',
        'lnk: nlink',
        'lnk: size',
        'lnk: type',
        'real/f: missing',
      ],
      why: 'umoci follows it; a layer that overlayfs stacks is extracted on its own, where "lnk" can only be a directory: here overlayfs is the oracle',
    },
    overlay: { differs: ['lnk: mtime'], why: MADE },
  },
  {
    name: 'a whiteout below a symlink of a lower layer',
    layers: [
      t.tar(root, t.dir('real'), t.file('real/x', '1'), t.symlink('lnk', 'real')),
      t.tar(root, t.whiteout('lnk/x')),
    ],
    umoci: {
      differs: [
        '.: nlink',
        'lnk: link',
        'lnk: mode',
        'lnk: mtime',
        'lnk: nlink',
        'lnk: size',
        'lnk: type',
        'real/x: extra',
      ],
      why: 'as above: umoci deletes real/x',
    },
    overlay: skip(
      'overlayfs lists the whiteout itself in a directory that it has nothing to merge with; lnk is an empty directory there too',
    ),
  },
  {
    name: 'a file of a lower layer is hidden by what an upper layer has below its name',
    layers: [t.tar(root, t.file('a', '1')), t.tar(root, t.file('a/b', '1'))],
    umoci: {
      differs: 'refuses',
      why: 'umoci makes directories in one merged tree; layers are extracted apart where they are stacked',
    },
    overlay: { differs: ['a: mtime'], why: MADE },
  },
  {
    name: 'parents that no entry names',
    layers: [t.tar(root, t.dir('x'), t.file('x/p/q/r', '1'))],
    umoci: { differs: ['x/p/q: mtime', 'x/p: mtime', 'x: mtime'], why: MADE },
    overlay: { differs: ['x/p/q: mtime', 'x/p: mtime'], why: MADE },
  },
  {
    name: 'parents that only a lower layer names',
    layers: [
      t.tar(root, t.dir('p', { mode: 0o711, uid: 5, mtime: 77 }), t.file('p/x', '')),
      t.tar(root, t.file('p/r', '1')),
    ],
    overlay: {
      differs: ['p: mode', 'p: mtime', 'p: uid'],
      why: 'the extracted layer has a directory made up by GNU tar; runtimes and umoci keep what the lower layer says',
    },
  },
  {
    name: 'aufs leftovers',
    layers: [
      t.tar(
        root,
        t.file('a', '1'),
        t.dir('.wh..wh.plnk'),
        t.file('.wh..wh.plnk/1.2', 'data'),
        t.file('.wh..wh.aufs', ''),
      ),
    ],
    umoci: {
      differs: ['.: nlink', '.wh..wh.plnk/1.2: missing', '.wh..wh.plnk: missing'],
      why: "they are another driver's bookkeeping; Docker ignores them (WhiteoutMetaPrefix)",
    },
    overlay: skip('the conversion would take them for whiteouts'),
  },
  {
    name: 'sparse files',
    layers: [
      t.tar(
        root,
        t.gnuSparse(
          'old',
          1 << 20,
          [0, 65_536, 199_680, 300_032, 400_384, 500_224].map((at) => [at, Buffer.alloc(1024, String(at))] as const),
        ),
        t.paxSparse('0.0', 's00', 100_000, [[512, 'x'.repeat(512)]]),
        t.paxSparse('0.1', 's01', 100_000, [[512, 'x'.repeat(512)]]),
        t.paxSparse('1.0', 's10', 100_000, [
          [512, 'x'.repeat(512)],
          [99_840, 'y'.repeat(160)],
        ]),
        t.gnuSparse('hole', 5_000_000, []),
      ),
    ],
    umoci: { differs: 'refuses', why: 'umoci does not know type S; GNU tar, which wrote the format, does' },
    overlay: AGREES,
  },
  {
    name: 'global pax headers',
    layers: [
      t.tar(root, t.pax({ mtime: '12.5', comment: 'hi' }, 'g'), t.file('a', '1'), t.file('b', '1', { mtime: '44.5' })),
    ],
    umoci: {
      differs: 'refuses',
      why: 'POSIX pax: "g Represents global extended header records for the following files in the archive"',
    },
    overlay: AGREES,
  },
  {
    name: 'negative owners: -1 leaves root, others wrap, as in chown(2)',
    layers: [
      t.tar(
        root,
        t.pax({ uid: '-1', gid: '-1' }),
        t.file('pax', '1'),
        t.pax({ uid: '-2', gid: '0' }),
        t.file('nobody', '1'),
        t.pax({ uid: '4294967295', gid: '7' }),
        t.file('unsigned', '1'),
      ),
    ],
    overlay: skip('GNU tar takes no negative owners'),
  },
  {
    name: 'dialects',
    layers: [
      t.tar(
        root,
        t.header({ name: 'v7dir/', type: '\0', dialect: 'v7', mode: 0o755, mtime: 7 }),
        t.header({ name: 'v7dir/f', type: '\0', dialect: 'v7', mtime: 7 }),
        t.header({ name: 'f', prefix: 'v7dir', mtime: 7 }),
        t.gnuLong('L', `v7dir/${'l'.repeat(200)}`),
        t.gnuLong('K', 'k'.repeat(150)),
        t.header({ name: 'cut', type: '2', link: 'cut', dialect: 'gnu', mode: 0o777 }),
        t.header({ name: 'base256', uid: 3_000_000_000, gid: 70_000, mtime: -86_400, base256: true, dialect: 'gnu' }),
        t.header({ name: Buffer.from([0xe9]), checksum: 'signed' }),
      ),
    ],
    overlay: AGREES,
  },
];
