import type { Nid } from '../bytes/index.js';
import { lowerBound } from '../bytes/index.js';
import type { InodeView } from './inode.js';
import type { Placement } from './placement.js';
import type { ErofsReader, RangeCallback } from './reader.js';

/**
 * Where the bytes [offset, offset + length) of a regular file lie, up to its end: calls `cb` for each piece in order; together
 * they cover the range. For a file that the tree cannot describe, the placement's extents count and not the tree's chunks
 * (docs/architecture.md, "The tree is an EROFS image"). Allocates nothing. `scratch` is overwritten.
 */
export function mapFileRange(
  reader: ErofsReader,
  placement: Placement | null,
  scratch: InodeView,
  nid: Nid,
  offset: number,
  length: number,
  cb: RangeCallback,
): void {
  const first = placement === null ? 0 : lowerBound(placement.nid, nid);
  if (placement === null || first === placement.count || placement.nid[first] !== nid) {
    reader.mapRange(nid, offset, length, cb);
    return;
  }
  reader.inode(nid, scratch);
  const end = Math.min(scratch.size, offset + length);
  let position = offset;
  for (let i = first; i < placement.count && placement.nid[i] === nid && position < end; i++) {
    const start = placement.fileOffset[i]!;
    const stop = Math.min(end, start + placement.length[i]!);
    if (stop <= position) continue;
    if (start > position) {
      const hole = Math.min(start, end) - position;
      cb(-1, 0, hole);
      position += hole;
      if (position >= end) return;
    }
    cb(placement.layer[i]!, placement.layerOffset[i]! + (position - start), stop - position);
    position = stop;
  }
  if (position < end) cb(-1, 0, end - position);
}
