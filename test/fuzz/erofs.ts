// Fuzz target: EROFS images, damaged anywhere. Every call either works within bounds or refuses with a FormatError.
import { crc32c, FormatError } from '../../src/bytes/index.js';
import { ErofsReader, InodeView } from '../../src/erofs/index.js';
import { buildErofs } from '../support/planes.js';
import * as t from '../support/tar.js';
import type { Random } from './random.js';

export interface ErofsWalk {
  inodes: number;
  directories: number;
  links: number;
  xattrs: number;
  depth: number;
}

/** Visits everything reachable, by every call of the reader. Directories are entered once, so that a loop ends. */
export function walkErofs(reader: ErofsReader): ErofsWalk {
  const seen = new Set<number>();
  const out: ErofsWalk = { inodes: 0, directories: 0, links: 0, xattrs: 0, depth: 0 };
  const inode = new InodeView();
  const stack: [number, number][] = [[reader.rootNid, 0]];
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    const [nid, depth] = next;
    if (seen.has(nid)) continue;
    seen.add(nid);
    out.inodes++;
    out.depth = Math.max(out.depth, depth);
    reader.inode(nid, inode);
    for (const name of Buffer.from(reader.listXattr(nid)).toString('latin1').split('\0').slice(0, -1)) {
      out.xattrs++;
      if (reader.getXattr(nid, Buffer.from(name, 'latin1')) === null)
        throw new Error(`xattr ${name} is listed and not found`);
    }
    if (inode.isSymlink && reader.readlink(nid).length !== inode.size) throw new Error('symlink of another size');
    if (inode.isFile) {
      let covered = 0;
      reader.mapRange(nid, 0, inode.size, (layer, offset, length) => {
        if (length <= 0 || (layer >= 0 && offset + length > reader.deviceBytes[layer]!))
          throw new Error('piece out of bounds');
        covered += length;
      });
      if (covered !== inode.size) throw new Error(`pieces cover ${covered} of ${inode.size} bytes`);
    }
    if (!inode.isDirectory) {
      if (inode.nlink > 1) out.links++;
      continue;
    }
    out.directories++;
    const names: string[] = [];
    reader.readdir(nid, 0, (child, _type, start, end) => {
      names.push(Buffer.from(reader.image.subarray(start, end)).toString('latin1'));
      const name = names.at(-1);
      if (name !== '.' && name !== '..') stack.push([child, depth + 1]);
      return true;
    });
    for (const name of names.slice(0, 50)) reader.lookup(nid, Buffer.from(name, 'latin1'), 0, name.length);
    // Any cookie is an answer or a refusal.
    for (const cookie of [1, 13, 500, 511, 512, 100_000, Number.MAX_SAFE_INTEGER])
      reader.readdir(nid, cookie, () => false);
  }
  return out;
}

export function execute(input: Uint8Array): string {
  // The image in shared memory, as the daemon has it, with guard bytes that reading must not depend on.
  const shared = new Uint8Array(new SharedArrayBuffer(input.length + 64)).fill(0xa5);
  shared.set(input, 32);
  const image = shared.subarray(32, 32 + input.length);
  try {
    const { inodes, depth, xattrs, links } = walkErofs(new ErofsReader(image));
    return `ok ${Math.min(40, inodes)} ${Math.min(9, depth)} ${Math.min(9, xattrs)} ${Math.min(3, links)}`;
  } catch (error) {
    if (error instanceof FormatError) return `${error.what}: ${error.detail.replace(/0x[0-9a-f]+|0o\d+|-?\d+/g, '#')}`;
    throw error;
  }
}

/** A change with a superblock checksum that is right again. */
export function mutate(input: Uint8Array, random: Random): Uint8Array {
  const out = input.slice();
  if (out.length < 2048) return out;
  for (let n = 1 + random.below(4); n > 0; n--) {
    const at = random.below(3) === 0 ? 1024 + random.below(1024) : random.below(out.length);
    const values = [0, 1, 0x7f, 0x80, 0xff, random.below(256)];
    out[at] = values[random.below(values.length)]!;
  }
  const bits = out[1024 + 12]!;
  if (bits !== 9) return out;
  out.fill(0, 1028, 1032);
  new DataView(out.buffer).setUint32(1028, crc32c(out.subarray(1024, 1536)), true);
  return out;
}

export function corpus(): Uint8Array[] {
  const many = Array.from({ length: 80 }, (_, i) => t.file(`d/${'n'.repeat(i * 3)}${i}`, 'x'.repeat(i * 20)));
  const acl = Buffer.from('0200000001000700ffffffff04000500ffffffff20000500ffffffff', 'hex');
  return [
    [t.tar()],
    [
      t.tar(
        t.file('a', 'hello'),
        t.symlink('s', 'a'),
        t.hardLink('h', 'a'),
        t.char('c', 5, 1),
        t.symlink('long', 'l'.repeat(1500)),
      ),
    ],
    [t.tar(...many), t.tar(t.file('d/over', 'x', { xattrs: { 'user.a': 'b' } }), t.whiteout('d/0'))],
    [
      t.tar(
        t.dir('acl', { xattrs: { 'system.posix_acl_default': acl, 'security.x': 'y', 'trusted.z': 'w'.repeat(300) } }),
      ),
    ],
    [
      t.tar(
        t.gnuSparse('s', 100_000, [
          [0, 'x'.repeat(512)],
          [4096, 'y'.repeat(1024)],
        ]),
        t.gnuSparse('big', 2 ** 45, []),
      ),
    ],
    [t.tar(t.file('a/b/c/d/e/f/g', '', { mtime: '-7.25', uid: 100_000 }))],
  ].map((layers) => buildErofs(layers).image);
}
