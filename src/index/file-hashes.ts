import { createHash } from 'node:crypto';
import type { FileHashes } from '../archive/index.js';
import type { Nid } from '../bytes/index.js';
import { lowerBound, updateZeros } from '../bytes/index.js';
import { ErofsReader, firstByte, type Placement, visitInodes } from '../erofs/index.js';
import { HoleBudget } from './file-hasher.js';
import type { FileDigests } from './lane-protocol.js';

/**
 * Turns digests by place in a layer into digests by nid. The tree has the place of each file, and no two files with stored data
 * begin at the same place.
 */
export function fileHashes(
  tree: Uint8Array,
  placement: Placement | null,
  layers: readonly (FileDigests | null)[],
): FileHashes {
  const reader = new ErofsReader(tree);
  const budget = new HoleBudget();
  const found: { nid: Nid; sha256: Uint8Array }[] = [];
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
