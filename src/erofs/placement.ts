import type { LayerIndex, Nid } from '../bytes/index.js';
import { CHUNK_BITS_MASK, CHUNK_INDEXES } from './format.js';
import type { TreeSource } from './tree-source.js';

/**
 * Extents of files that EROFS cannot describe (docs/architecture.md, "The tree is an EROFS image"), sorted by (nid, fileOffset).
 * Ranges that are not listed are holes.
 */
export interface Placement {
  readonly count: number;
  readonly nid: Float64Array;
  readonly fileOffset: Float64Array;
  readonly length: Float64Array;
  /** Index into the image's layers. */
  readonly layer: Uint32Array;
  readonly layerOffset: Float64Array;
}

/** A file may have half a megabyte of indexes. With more it goes to the placement section, which takes 36 bytes per extent. */
export const CHUNKS_MAX = 65_536;
/**
 * 64 TiB: four times the largest file of ext4, and small enough that a forged size costs 512 bytes of hole indexes, as much as the
 * tar header that claims it.
 */
export const FILE_SIZE_MAX = 2 ** 46;

/** How a regular file's data is described. */
export interface ChunkPlan {
  /** i_u. */
  format: number;
  chunkSize: number;
  /** Number of indexes. */
  chunks: number;
  /** The indexes are all holes, and the extents go to the placement section. */
  placed: boolean;
}

/**
 * Plans the chunks of a non-empty regular file: as large as they can be, 2^31 blocks at most. (One constant for every file that
 * is a single chunk deflates better than the smallest that fits.) `into` is reused from file to file.
 */
export function planChunks(tree: TreeSource, inode: number, blockSize: number, into: ChunkPlan): void {
  const largest = blockSize * 2 ** CHUNK_BITS_MASK;
  const size = tree.size(inode);
  const extents = tree.extents(inode);
  let position = tree.dataOffset(inode);
  let chunk = largest;
  // A double's remainder is slow, and this runs for every file.
  let placed = Math.floor(position / blockSize) * blockSize !== position;
  if (extents !== null) {
    placed = false;
    for (let i = 0; i < extents.length && !placed; i += 2) {
      const offset = extents[i]!;
      const length = extents[i + 1]!;
      // A chunk is all data or all hole. Only the end of the file may cut one short, because bytes beyond it are never read.
      while (chunk >= blockSize && (offset % chunk !== 0 || (length % chunk !== 0 && offset + length !== size)))
        chunk /= 2;
      if (chunk < blockSize || position % blockSize !== 0 || size / chunk > CHUNKS_MAX) placed = true;
      position += length;
    }
  }
  if (placed) chunk = largest;
  into.chunkSize = chunk;
  into.chunks = Math.ceil(size / chunk);
  into.format = CHUNK_INDEXES | (chunk === largest ? CHUNK_BITS_MASK : Math.log2(chunk / blockSize));
  into.placed = placed;
}

/** A column that other threads read too. */
function shared(length: number): Float64Array {
  return new Float64Array(new SharedArrayBuffer(8 * length));
}

/** A copy in shared memory. */
export function sharedPlacement(placement: Placement): Placement {
  const { count, nid, fileOffset, length, layer, layerOffset } = placement;
  const copy = (column: Float64Array): Float64Array => {
    const made = shared(count);
    made.set(column);
    return made;
  };
  const layers = new Uint32Array(new SharedArrayBuffer(4 * count));
  layers.set(layer);
  return {
    count,
    nid: copy(nid),
    fileOffset: copy(fileOffset),
    length: copy(length),
    layer: layers,
    layerOffset: copy(layerOffset),
  };
}

/** Gathers extents in any order of nids, and sorts them at the end. */
export class PlacementBuilder {
  readonly #files: { nid: Nid; layer: LayerIndex; position: number; extents: Float64Array }[] = [];

  add(tree: TreeSource, inode: number, nid: Nid): void {
    const extents = tree.extents(inode) ?? Float64Array.of(0, tree.size(inode));
    this.#files.push({ nid, layer: tree.layer(inode), position: tree.dataOffset(inode), extents });
  }

  finish(): Placement | null {
    if (this.#files.length === 0) return null;
    this.#files.sort((a, b) => a.nid - b.nid);
    const count = this.#files.reduce((sum, file) => sum + file.extents.length / 2, 0);
    const out = {
      count,
      nid: shared(count),
      fileOffset: shared(count),
      length: shared(count),
      layer: new Uint32Array(new SharedArrayBuffer(4 * count)),
      layerOffset: shared(count),
    };
    let at = 0;
    for (const { nid, layer, position, extents } of this.#files) {
      let layerOffset = position;
      for (let i = 0; i < extents.length; i += 2, at++) {
        out.nid[at] = nid;
        out.fileOffset[at] = extents[i]!;
        out.length[at] = extents[i + 1]!;
        out.layer[at] = layer;
        out.layerOffset[at] = layerOffset;
        layerOffset += extents[i + 1]!;
      }
    }
    return out;
  }
}
