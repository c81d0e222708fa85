import { FormatError } from '../bytes/index.js';
import { BLOCK } from './format.js';
import { ImageTree } from './image-tree.js';
import { ErofsReader } from './reader.js';
import type { TreeSource } from './tree-source.js';
import { type ErofsDevice, writeErofs } from './writer.js';

/** Raised whenever `rewriteErofs` gives other bytes for the same tree. Kept results of another version are not used. */
export const REWRITE_VERSION = 1;

/**
 * The last device of an image that the kernel mounts: no file has data there. It is an empty file of clipd's own mount, which the
 * kernel therefore holds as long as it uses the image.
 */
const ALIVE: ErofsDevice = { tag: 'alive', blocks: 1 };

/**
 * Reads a tree of unknown origin, checking every part, and writes it with our writer, for the kernel to mount: one device per
 * layer, in their order, and one more ("alive").
 * @param layerBytes sizes of the uncompressed layers, multiples of BLOCK
 * @throws FormatError when the tree is damaged, or one that our writer would not make; ClipError LIMIT
 */
export function rewriteErofs(image: Uint8Array, layerBytes: readonly number[]): Uint8Array<ArrayBuffer> {
  const reader = new ErofsReader(image);
  const devices = layerBytes.map((bytes, i) => ({ tag: reader.deviceTags[i] ?? '', blocks: Math.ceil(bytes / BLOCK) }));
  const written = writeErofs(new ImageTree(reader, layerBytes), [...devices, ALIVE]);
  const { droppedXattrs, placedFiles } = written.stats;
  if (droppedXattrs > 0) throw new FormatError('EROFS tree', 0, `${droppedXattrs} xattrs that EROFS cannot hold`);
  if (placedFiles > 0) throw new FormatError('EROFS tree', 0, `${placedFiles} files that EROFS cannot describe`);
  return written.image;
}

/** The name of layer `index` in the tree of `writeLayerFiles`; the last one is that of the empty file. */
export function layerFileName(index: number): string {
  return String(index).padStart(5, '0');
}

/**
 * The tree of clipd's own mount below one that the kernel serves: each layer is one file, whose bytes are the layer's uncompressed
 * tar, and an empty file follows them.
 */
export function writeLayerFiles(layerBytes: readonly number[]): Uint8Array<ArrayBuffer> {
  const devices = layerBytes.map((bytes, i) => ({ tag: `layer ${i}`, blocks: Math.ceil(bytes / BLOCK) }));
  return writeErofs(new LayerFiles(layerBytes), devices).image;
}

const ROOT = 0;
const NAMES_IN_ORDER = 100_000;

/** Inode 0 is the root, inode 1 + i the file of layer i. */
class LayerFiles implements TreeSource {
  readonly root = ROOT;
  readonly inodeLimit: number;
  readonly stats = { directories: 1, overlayXattrs: 0, whiteoutDevices: 0, namelessEntries: 0 };
  readonly #sizes: readonly number[];
  readonly #names: Uint8Array;

  constructor(layerBytes: readonly number[]) {
    if (layerBytes.length + 1 >= NAMES_IN_ORDER) throw new RangeError(`${layerBytes.length} layers`);
    this.#sizes = [...layerBytes, 0];
    this.inodeLimit = 1 + this.#sizes.length;
    this.#names = Buffer.from(this.#sizes.map((_, i) => layerFileName(i)).join(''), 'latin1');
  }

  childStart(): number {
    return 0;
  }
  childEnd(directory: number): number {
    return directory === ROOT ? this.#sizes.length : 0;
  }
  childInode(index: number): number {
    return 1 + index;
  }
  childNameArena(): Uint8Array {
    return this.#names;
  }
  childNameStart(index: number): number {
    return index * this.childNameLength();
  }
  childNameLength(): number {
    return 5;
  }
  mode(inode: number): number {
    return inode === ROOT ? 0o040500 : 0o100400;
  }
  isDirectory(inode: number): boolean {
    return inode === ROOT;
  }
  nlink(inode: number): number {
    return inode === ROOT ? 2 : 1;
  }
  uid(): number {
    return 0;
  }
  gid(): number {
    return 0;
  }
  mtime(): number {
    return 0;
  }
  mtimeNsec(): number {
    return 0;
  }
  size(inode: number): number {
    return this.#sizes[inode - 1]!;
  }
  rdev(): number {
    return 0;
  }
  layer(inode: number): number {
    return inode - 1;
  }
  dataOffset(): number {
    return 0;
  }
  extents(): null {
    return null;
  }
  symlinkLength(): number {
    return 0;
  }
  symlink(): Uint8Array {
    return new Uint8Array(0);
  }
  xattrs(): [] {
    return [];
  }
}
