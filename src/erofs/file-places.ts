import type { LayerIndex, Nid } from '../bytes/index.js';
import { lowerBound } from '../bytes/index.js';
import { InodeView } from './inode.js';
import type { Placement } from './placement.js';
import type { ErofsReader } from './reader.js';

/** The place of a file's first stored byte; null if it stores none. */
export type FirstByte = { readonly layer: LayerIndex; readonly layerOffset: number } | null;

/** Calls `visit` once for each inode below the root, the root included. */
export function visitInodes(reader: ErofsReader, visit: (nid: Nid, inode: InodeView) => void): void {
  const seen = new Set<number>([reader.rootNid]);
  const pending = [reader.rootNid];
  const inode = new InodeView();
  for (let nid = pending.pop(); nid !== undefined; nid = pending.pop()) {
    reader.inode(nid, inode);
    const directory = inode.isDirectory;
    visit(nid, inode);
    if (!directory) continue;
    reader.readdir(nid, 0, (child) => {
      if (!seen.has(child)) {
        seen.add(child);
        pending.push(child);
      }
      return true;
    });
  }
}

export function firstByte(reader: ErofsReader, placement: Placement | null, nid: Nid, size: number): FirstByte {
  if (placement !== null) {
    const i = lowerBound(placement.nid, nid);
    if (placement.nid[i] === nid) return { layer: placement.layer[i]!, layerOffset: placement.layerOffset[i]! };
  }
  let found: FirstByte = null;
  const take = (layer: LayerIndex, layerOffset: number): void => {
    if (layer >= 0) found ??= { layer, layerOffset };
  };
  // Few files begin with a hole; only those are searched as a whole.
  const head = Math.min(size, reader.blockSize);
  reader.mapRange(nid, 0, head, take);
  if (found === null && size > head) reader.mapRange(nid, head, size - head, take);
  return found;
}
