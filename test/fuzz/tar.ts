// Fuzz target: a layer's tar, through the parser, the tree, the EROFS writer and reader.
import { ClipError, FormatError } from '../../src/bytes/index.js';
import { type ErofsImage, ErofsReader, writeErofs } from '../../src/erofs/index.js';
import { EntryColumns, TarParser } from '../../src/tar/index.js';
import { TreeBuilder } from '../../src/tree/index.js';
import * as t from '../support/tar.js';
import { walkErofs } from './erofs.js';
import type { Random } from './random.js';

/** Trees larger than this come of forged sizes (8 KiB of hole indexes a header); they are legal, but slow to check. */
const MAX_IMAGE = 8 << 20;

function parse(input: Uint8Array, step: number): EntryColumns | FormatError {
  const entries = new EntryColumns();
  const parser = new TarParser({ entries });
  try {
    for (let at = 0; at < input.length; at += step) parser.push(input.subarray(at, Math.min(input.length, at + step)));
    parser.finish();
  } catch (error) {
    if (error instanceof FormatError) return error;
    throw error;
  }
  return entries;
}

function fingerprint(e: EntryColumns): string {
  const lines: unknown[] = [];
  for (let i = 0; i < e.count; i++) {
    const path = Buffer.from(e.arena.subarray(e.pathStart(i), e.linkEnd(i))).toString('latin1');
    lines.push([
      path,
      e.mode(i),
      e.uid(i),
      e.gid(i),
      e.size(i),
      e.mtime(i),
      e.dataOffset(i),
      e.extents(i)?.length,
      e.xattrs(i).length,
    ]);
  }
  return JSON.stringify(lines);
}

export function execute(input: Uint8Array): string {
  const whole = parse(input, Math.max(1, input.length));
  const pieces = parse(input, 1 + (input.length % 700));
  if (whole instanceof FormatError || pieces instanceof FormatError) {
    if (!(whole instanceof FormatError && pieces instanceof FormatError))
      throw new Error('pieces are treated differently');
    if (whole.message !== pieces.message) throw new Error(`${whole.message} / ${pieces.message}`);
    return `${whole.what}: ${whole.detail.replace(/".*"/, '').replace(/\d+/g, '#')}`;
  }
  if (fingerprint(whole) !== fingerprint(pieces)) throw new Error('pieces give other entries');
  // Twice the same layer: whiteouts then find something to hide.
  const builder = new TreeBuilder();
  let made: ErofsImage;
  try {
    builder.applyLayer(0, whole);
    builder.applyLayer(1, pieces);
    made = writeErofs(
      builder.finish(),
      [0, 1].map((i) => ({ tag: `${i}`, blocks: Math.ceil(input.length / 512) })),
    );
  } catch (error) {
    if (error instanceof ClipError && (error.code === 'BAD_FORMAT' || error.code === 'LIMIT')) {
      return `${error.code} ${error.message.replace(/".*"/, '').replace(/\d+/g, '#')}`;
    }
    throw error;
  }
  if (made.image.length > MAX_IMAGE) return 'large';
  const seen = walkErofs(new ErofsReader(made.image));
  if (seen.inodes !== made.stats.inodes || seen.directories !== made.stats.directories) {
    throw new Error(`the reader finds ${seen.inodes} inodes, ${made.stats.inodes} were written`);
  }
  for (let i = 0; i < (made.placement?.count ?? 0); i++) {
    const end = made.placement!.layerOffset[i]! + made.placement!.length[i]!;
    if (end > input.length) throw new Error('placement beyond the layer');
  }
  return `ok ${Math.min(30, seen.inodes)} ${seen.links > 0} ${seen.xattrs > 0} ${made.placement !== null} ${Math.min(9, seen.depth)}`;
}

/** In addition to another change: the changed header gets a right checksum. */
export function mutate(input: Uint8Array, random: Random): Uint8Array {
  const out = input.slice();
  const blocks = Math.floor(out.length / 512);
  if (blocks === 0) return out;
  const at = random.below(blocks) * 512;
  const fields = [0, 100, 108, 116, 124, 136, 156, 157, 257, 329, 337, 345, 386, 482, 483];
  const field = at + fields[random.below(fields.length)]!;
  const flavours = [
    '0',
    '7',
    '\x80',
    '\xff',
    '/',
    '.',
    '..',
    '.wh.',
    'S',
    'x',
    'g',
    'L',
    '1',
    '2',
    '5',
    '\0',
    '../',
    '77777777777',
  ];
  out.set(Buffer.from(flavours[random.below(flavours.length)]!, 'latin1').subarray(0, 512 - (field - at)), field);
  out.fill(0x20, at + 148, at + 156);
  let sum = 0;
  for (let i = at; i < at + 512; i++) sum += out[i]!;
  out.set(Buffer.from(`${sum.toString(8).padStart(6, '0')}\0 `), at + 148);
  return out;
}

export function corpus(): Uint8Array[] {
  const sparse: t.Segments = [0, 1024, 2048, 4096, 8192, 16_384].map((at) => [at, 's'.repeat(512)] as const);
  return [
    t.tar(),
    t.tar(
      t.dir('./', { mode: 0o711 }),
      t.file('a', 'hello'),
      t.symlink('s', 'a'),
      t.hardLink('h', 'a'),
      t.char('c', 5, 1),
      t.fifo('p'),
    ),
    t.tar(
      t.file('d/e/f', 'x', { xattrs: { 'user.a': 'b', 'security.capability': 'c' } }),
      t.whiteout('d/e/f'),
      t.opaque('d'),
    ),
    t.tar(t.hardLink('b', 'a'), t.hardLink('c', 'b'), t.file('a')),
    t.tar(t.symlink('l', '../x/y'), t.file('l/f', '1'), t.symlink('m', '/l'), t.file('m/g', '2')),
    t.tar(t.pax({ path: 'p'.repeat(200), mtime: '-1.5', size: 3, uid: 9 }), t.header({ name: 'x' }), t.padded('abc')),
    t.tar(
      t.pax({ mtime: '1.5' }, 'g'),
      t.file('a'),
      t.gnuLong('L', 'l'.repeat(300)),
      t.gnuLong('K', 'k'),
      t.symlink('cut', 'cut'),
    ),
    t.tar(t.gnuSparse('s', 50_000, sparse)),
    t.tar(t.paxSparse('0.0', 's', 50_000, sparse)),
    t.tar(t.paxSparse('0.1', 's', 50_000, sparse)),
    t.tar(t.paxSparse('1.0', 's', 50_000, sparse)),
    t.tar(
      t.gnuSparse('s', 3 * 2 ** 40, [
        [512, 'odd'],
        [1 << 20, 'x'],
      ]),
    ),
    t.tar(t.header({ name: 'f', uid: 3_000_000_000, mtime: -5, base256: true, dialect: 'gnu' })),
    t.tar(
      t.header({ name: 'f', prefix: 'dir', dialect: 'star' }),
      t.header({ name: 'd/', type: '\0', dialect: 'v7' }),
      t.header({ name: 'o', prefix: 'q', dialect: 'old-star' }),
    ),
    t.tar(...Array.from({ length: 60 }, (_, i) => t.file(`many/${'n'.repeat(i * 4)}${i}`, ''))),
    t.tar(t.file('.wh..wh.plnk/1', 'x'), t.hardLink('a', '.wh..wh.plnk/1'), t.file('.wh..wh.aufs')),
  ];
}
