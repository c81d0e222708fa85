import type { Archive } from '../archive/index.js';
import { ErofsReader, FileFinder, InodeView, type Placement, writeLayerFiles } from '../erofs/index.js';
import type { LayerPiece } from '../lazy/index.js';
import { layerBytesOf } from './plane-choice.js';

/** A file of the image, and where its data ends in the layer of a piece. */
export interface FileEnd {
  readonly nid: number;
  readonly end: number;
}

/** The tree that a connection serves, and the files of the image that reads of it belong to. */
export interface ServedTree {
  readonly tree: SharedArrayBuffer;
  readonly reader: ErofsReader;
  readonly placement: Placement | null;
  /**
   * The file of the image that has the last byte of a read; null if none is known.
   * @param nid   of the read, in this tree
   * @param after the offset after the read in that file
   * @param last  its last piece, which is no hole
   */
  fileOf(nid: number, after: number, last: LayerPiece): FileEnd | null;
  /** Reads are to come: what `fileOf` needs is built now, and not when the first one has waited. */
  prepare(): void;
  close(): void;
}

/** FUSE answers for the image itself. */
export function servedImage({ tree, placement }: Archive): ServedTree {
  const reader = new ErofsReader(tree);
  const scratch = new InodeView();
  return {
    tree: tree.buffer as SharedArrayBuffer,
    reader,
    placement,
    // A tar holds a file's data in one stretch, so the rest of the file follows the last piece.
    fileOf: (nid, after, { layerOffset, length }) => {
      reader.inode(nid, scratch);
      return { nid, end: layerOffset + length + Math.max(0, scratch.size - after) };
    },
    prepare: () => {},
    close: () => {},
  };
}

/** The kernel answers for the image, and asks for the layers. */
export function servedLayers(archive: Archive): ServedTree {
  const image = writeLayerFiles(layerBytesOf(archive));
  const tree = new SharedArrayBuffer(image.length);
  new Uint8Array(tree).set(image);
  let index: FileFinder | null = null;
  let closed = false;
  let steps: Generator<void, FileFinder | null> | null = null;
  // The archive's tree is read for this first. A tree that makes no sense costs fetching ahead; the kernel's own copy was checked before it was mounted.
  const step = (): void => {
    if (closed) return;
    try {
      steps ??= FileFinder.build(new ErofsReader(archive.tree));
      const { done, value } = steps.next();
      if (done) index = value;
      else setImmediate(step);
    } catch {
      index = null;
    }
  };
  let begun = false;
  const prepare = (): void => {
    if (!begun) setImmediate(step);
    begun = true;
  };
  return {
    tree,
    reader: new ErofsReader(new Uint8Array(tree)),
    placement: null,
    fileOf: (_nid, _after, { layer, layerOffset, length }) => {
      prepare();
      const stretch = index?.at(layer, layerOffset + length - 1) ?? index?.at(layer, layerOffset) ?? null;
      return stretch === null ? null : { nid: stretch.nid, end: stretch.start + stretch.length };
    },
    prepare,
    close: () => {
      closed = true;
    },
  };
}
