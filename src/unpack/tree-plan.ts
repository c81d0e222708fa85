import { join } from 'node:path';
import type { Archive } from '../archive/index.js';
import type { LayerIndex, Nid } from '../bytes/index.js';
import { ClipError, FormatError } from '../bytes/index.js';
import { ErofsReader, InodeView, mapFileRange, WalkLimit } from '../erofs/index.js';
import type { Files, Pieces } from './messages.js';

/** Something other than a regular file, or a further name of one. */
export interface Entry {
  readonly nid: Nid;
  /** Relative to the root directory; "" for the root. */
  readonly path: Buffer;
}

export interface TreePlan {
  readonly files: Files;
  /** By layer; layers with one span table share theirs. */
  readonly pieces: readonly Pieces[];
  /** Parents before children. */
  readonly directories: readonly Entry[];
  /** Symlinks, devices, pipes, sockets. */
  readonly others: readonly Entry[];
  /** Further names of files that have one already. */
  readonly links: readonly { readonly path: Buffer; readonly first: Buffer }[];
  /** Files that no worker finishes: empty ones, those with holes, and those that lie in more than one span. Positions in `files`. */
  readonly unfinished: readonly number[];
}

/** The kernel takes no longer ones in one call (linux/limits.h), with the NUL at the end. */
const PATH_MAX = 4096;

/** As many bytes as `array` takes in columns of `width`, in memory that threads share. */
const sharedBytes = (array: readonly number[], width: number): SharedArrayBuffer =>
  new SharedArrayBuffer(Math.max(1, array.length) * width);

function float64(array: readonly number[]): Float64Array {
  const column = new Float64Array(sharedBytes(array, 8));
  column.set(array);
  return column;
}

function uint32(array: readonly number[]): Uint32Array {
  const column = new Uint32Array(sharedBytes(array, 4));
  column.set(array);
  return column;
}

function uint8(array: readonly number[]): Uint8Array {
  const column = new Uint8Array(sharedBytes(array, 1));
  column.set(array);
  return column;
}

/** A name of the tree that is also one of a file system: the tree comes from an archive, which may say anything. */
function checkName(name: Buffer, what: string): void {
  const bad = name.length === 0 || name.includes(0) || name.includes(0x2f) || name.equals(Buffer.from('..'));
  if (bad) throw new FormatError(what, 0, `${JSON.stringify(name.toString('latin1'))} is no name of a file`);
}

interface LayerPieces {
  readonly start: number[];
  readonly length: number[];
  readonly fileOffset: number[];
  readonly file: number[];
}

/** Which layer's pieces a layer's go to: of those with the same span table, the first. */
export function firstOf(archive: Pick<Archive, 'layers'>, layer: LayerIndex): number {
  return archive.layers.findIndex(({ table }) => table === archive.layers[layer]!.table);
}

/**
 * What there is to make of an image, and where its data comes from.
 * @param directory where it will be made: its path counts
 * @throws FormatError when a name of the tree is none; ClipError UNSUPPORTED when a path is too long for this kernel
 */
export function planTree(archive: Archive, directory: string): TreePlan {
  const reader = new ErofsReader(archive.tree);
  const walk = new WalkLimit(reader);
  const inode = new InodeView();
  const scratch = new InodeView();
  const image = Buffer.from(archive.tree.buffer, archive.tree.byteOffset, archive.tree.length);
  const limit = PATH_MAX - 1 - Buffer.byteLength(join(directory, 'x')) + 1;

  const nids: number[] = [];
  const single: number[] = [];
  const pathAt: number[] = [0];
  const paths: Buffer[] = [];
  let pathBytes = 0;
  const layers: LayerPieces[] = archive.layers.map(() => ({ start: [], length: [], fileOffset: [], file: [] }));
  const directories: Entry[] = [{ nid: reader.rootNid, path: Buffer.alloc(0) }];
  const others: Entry[] = [];
  const links: { path: Buffer; first: Buffer }[] = [];
  const unfinished: number[] = [];
  const firstNames = new Map<number, Buffer>();

  const addFile = (nid: Nid, path: Buffer, size: number): void => {
    const file = nids.length;
    nids.push(nid);
    paths.push(path);
    pathBytes += path.length;
    pathAt.push(pathBytes);
    let pieces = 0;
    let inOneSpan = false;
    let offset = 0;
    mapFileRange(reader, archive.placement, scratch, nid, 0, size, (layer, layerOffset, length) => {
      if (layer >= 0 && length > 0) {
        const to = layers[firstOf(archive, layer)]!;
        to.start.push(layerOffset);
        to.length.push(length);
        to.fileOffset.push(offset);
        to.file.push(file);
        pieces++;
        const { layerOffset: spans } = archive.layers[layer]!.table;
        inOneSpan = offset === 0 && length === size && isInOneSpan(spans, layerOffset, length);
      }
      offset += length;
    });
    const whole = pieces === 1 && inOneSpan;
    single.push(whole ? 1 : 0);
    if (!whole) unfinished.push(file);
  };

  for (let i = 0; i < directories.length; i++) {
    const parent = directories[i]!;
    let last: Buffer | null = null;
    let entries = 0;
    reader.readdir(parent.nid, 0, (nid, _type, start, end) => {
      const name = image.subarray(start, end);
      if (name.length <= 2 && name.every((byte) => byte === 0x2e)) {
        if (name.length > 0) return true; // "." and ".."
      }
      checkName(name, 'section tree');
      // Sorted as EROFS wants it: then no name comes twice, as a symlink the first time and as what is written through it the second.
      if (last !== null && Buffer.compare(last, name) >= 0) {
        throw new FormatError('section tree', 0, `${JSON.stringify(name.toString('latin1'))} is out of order`);
      }
      last = name;
      entries++;
      const path = Buffer.concat(parent.path.length === 0 ? [name] : [parent.path, Buffer.from('/'), name]);
      if (path.length > limit) {
        throw new ClipError(
          'UNSUPPORTED',
          `a path of the image is longer than the kernel takes: ${path.length} bytes`,
          {
            hint: 'mount it instead: clipctl mount',
          },
        );
      }
      reader.inode(nid, inode);
      if (inode.isDirectory) directories.push({ nid, path });
      else {
        const first = inode.nlink > 1 ? firstNames.get(nid) : undefined;
        if (first !== undefined) links.push({ path, first });
        else {
          if (inode.nlink > 1) firstNames.set(nid, path);
          if (inode.isFile) addFile(nid, path, inode.size);
          else others.push({ nid, path });
        }
      }
      return true;
    });
    walk.visit(entries);
  }
  const allPaths = new Uint8Array(new SharedArrayBuffer(Math.max(1, pathBytes)));
  paths.forEach((path, i) => {
    allPaths.set(path, pathAt[i]!);
  });
  const files: Files = {
    nid: float64(nids),
    single: uint8(single),
    pathAt: float64(pathAt),
    paths: allPaths,
  };
  return { files, pieces: layers.map(sorted), directories, others, links, unfinished };
}

function isInOneSpan(spans: Float64Array, start: number, length: number): boolean {
  let [low, high] = [0, spans.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >>> 1;
    if (spans[middle]! <= start) low = middle;
    else high = middle;
  }
  return start + length <= spans[low + 1]!;
}

function sorted({ start, length, fileOffset, file }: LayerPieces): Pieces {
  const order = Array.from(start, (_, i) => i).sort((a, b) => start[a]! - start[b]!);
  const by = (column: readonly number[]): number[] => order.map((i) => column[i]!);
  return {
    count: start.length,
    start: float64(by(start)),
    length: float64(by(length)),
    fileOffset: float64(by(fileOffset)),
    file: uint32(by(file)),
  };
}
