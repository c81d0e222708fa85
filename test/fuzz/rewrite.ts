// Fuzz target: trees on their way to the kernel. What `rewriteErofs` accepts is a tree of our writer: our reader walks it, writing it again
// gives the same tree, and (as root, a sample) the kernel mounts it, nowhere in the tree, and shows what our reader shows.
import {
  closeSync,
  lstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ClipError } from '../../src/bytes/index.js';
import { ErofsReader, InodeView, rewriteErofs } from '../../src/erofs/index.js';
import { listXattr, openErofs } from '../../src/linux/index.js';
import { corpus as erofsCorpus, mutate as erofsMutate, walkErofs } from './erofs.js';

export { erofsMutate as mutate };

/** Layers are as long as their devices say, up to this: all files of the corpus lie below. */
const LAYER_MAX = 1 << 20;
/** The kernel is shown one of this many accepted trees. */
const SAMPLE = 64;
/** Of each file the first and the last bytes are read. */
const READ = 8192;

let directory: string | null = null;
let accepted = 0;
/** Trees that the kernel has mounted, for tests. */
export const seenByKernel = { mounts: 0 };

function layerBytesOf(image: Uint8Array): number[] {
  return new ErofsReader(image).deviceBytes.map((bytes) => Math.min(bytes, LAYER_MAX));
}

function place(): string {
  if (directory !== null) return directory;
  directory = mkdtempSync(join(tmpdir(), 'clip-fuzz-rewrite-'));
  writeFileSync(join(directory, 'layer'), '');
  truncateSync(join(directory, 'layer'), LAYER_MAX);
  return directory;
}

/** Mounts, walks and reads. @returns the names that the kernel lists */
function walkInKernel(image: Uint8Array, layers: number): number {
  const primary = join(place(), 'tree');
  writeFileSync(primary, image);
  const mount = openErofs(primary, new Array<string>(layers + 1).fill(join(place(), 'layer')));
  seenByKernel.mounts++;
  try {
    const pending: Buffer[] = [Buffer.from(`/proc/self/fd/${mount}/`)];
    let names = 0;
    const buffer = Buffer.alloc(READ);
    for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
      for (const entry of readdirSync(path, { encoding: 'buffer' })) {
        names++;
        const child = Buffer.concat([path, entry]);
        const stat = lstatSync(child);
        listXattr(child);
        if (stat.isDirectory()) pending.push(Buffer.concat([child, Buffer.from('/')]));
        else if (stat.isSymbolicLink()) readlinkSync(child);
        else if (stat.isFile()) {
          const fd = openSync(child, 'r');
          for (const offset of [0, Math.max(0, stat.size - READ)]) readSync(fd, buffer, 0, READ, offset);
          closeSync(fd);
        }
      }
    }
    return names;
  } finally {
    closeSync(mount);
  }
}

function namesIn(image: Uint8Array): number {
  const reader = new ErofsReader(image);
  const inode = new InodeView();
  const pending = [reader.rootNid];
  let names = 0;
  for (let nid = pending.pop(); nid !== undefined; nid = pending.pop()) {
    reader.readdir(nid, 0, (child, _type, start, end) => {
      const name = Buffer.from(reader.image.subarray(start, end)).toString('latin1');
      if (name === '.' || name === '..') return true;
      names++;
      reader.inode(child, inode);
      if (inode.isDirectory) pending.push(child);
      return true;
    });
  }
  return names;
}

export function execute(input: Uint8Array): string {
  let written: Uint8Array;
  let layers: number[];
  try {
    layers = layerBytesOf(input);
    written = rewriteErofs(input, layers);
  } catch (error) {
    if (!(error instanceof ClipError)) throw error;
    return error.message.replace(/0x[0-9a-f]+|0o\d+|-?\d+/g, '#');
  }
  const { inodes, xattrs } = walkErofs(new ErofsReader(written));
  const again = walkErofs(new ErofsReader(rewriteErofs(written, [...layers, 512])));
  if (again.inodes !== inodes || again.xattrs !== xattrs) throw new Error('written again, it is another tree');
  if (process.geteuid?.() === 0 && accepted++ % SAMPLE === 0) {
    const [shown, expected] = [walkInKernel(written, layers.length), namesIn(written)];
    if (shown !== expected) throw new Error(`the kernel lists ${shown} names, our reader ${expected}`);
  }
  return `ok ${Math.min(40, inodes)} ${Math.min(9, xattrs)}`;
}

export function corpus(): Uint8Array[] {
  // Trees that only the FUSE plane serves are refused, and so are what becomes of them.
  return erofsCorpus();
}

export async function close(): Promise<void> {
  if (directory !== null) rmSync(directory, { recursive: true, force: true });
  directory = null;
}
