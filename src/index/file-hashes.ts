import { createHash } from 'node:crypto';
import type { FileHashes, Placement } from '../archive/index.js';
import { ErofsReader, InodeView } from '../erofs/index.js';
import { HoleBudget, updateZeros } from './file-hasher.js';
import type { FileDigests } from './messages.js';

/** Where a file's first stored byte lies; null when it stores none. */
export type FirstByte = { readonly layer: number; readonly layerOffset: number } | null;

/** Calls `visit` once for each inode below the root, the root included. */
export function visitInodes(reader: ErofsReader, visit: (nid: number, inode: InodeView) => void): void {
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

/** Index of the first of the sorted `values` that is not below `value`. */
export function lowerBound(values: Float64Array, value: number): number {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (values[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

export function firstByte(reader: ErofsReader, placement: Placement | null, nid: number, size: number): FirstByte {
  if (placement !== null) {
    const i = lowerBound(placement.nid, nid);
    if (placement.nid[i] === nid) return { layer: placement.layer[i]!, layerOffset: placement.layerOffset[i]! };
  }
  let found: FirstByte = null;
  const take = (layer: number, layerOffset: number): void => {
    if (layer >= 0) found ??= { layer, layerOffset };
  };
  // Few files begin with a hole: only for those is all of the file looked through.
  const head = Math.min(size, reader.blockSize);
  reader.mapRange(nid, 0, head, take);
  if (found === null && size > head) reader.mapRange(nid, head, size - head, take);
  return found;
}

/**
 * From digests by place in a layer to digests by nid. The tree says where each file begins, and no two files that store
 * anything begin at the same place.
 */
export function fileHashes(
  tree: Uint8Array,
  placement: Placement | null,
  layers: readonly (FileDigests | null)[],
): FileHashes {
  const reader = new ErofsReader(tree);
  const budget = new HoleBudget();
  const found: { nid: number; sha256: Uint8Array }[] = [];
  visitInodes(reader, (nid, inode) => {
    if (!inode.isFile) return;
    const { size } = inode;
    const place = firstByte(reader, placement, nid, size);
    if (place === null) {
      if (!budget.take(size)) return;
      const hash = createHash('sha256');
      updateZeros(hash, size);
      found.push({ nid, sha256: hash.digest() });
      return;
    }
    const digests = layers[place.layer] ?? null;
    if (digests === null) return;
    const i = lowerBound(digests.dataOffset, place.layerOffset);
    if (digests.dataOffset[i] === place.layerOffset)
      found.push({ nid, sha256: digests.sha256.subarray(32 * i, 32 * i + 32) });
  });
  found.sort((a, b) => a.nid - b.nid);
  const sha256 = new Uint8Array(32 * found.length);
  found.forEach((file, i) => {
    sha256.set(file.sha256, 32 * i);
  });
  return { count: found.length, nid: Float64Array.from(found, (file) => file.nid), sha256 };
}
