import type { LayerIndex, Nid } from '../bytes/index.js';
import { lowerBound } from '../bytes/index.js';
import { FT } from './format.js';
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

/** Paths of inodes from the root, bytes as Latin-1; of an inode with several names one of them. */
export function pathsOf(reader: ErofsReader, nids: ReadonlySet<number>): Map<number, string> {
  const paths = new Map<number, string>();
  const pending: [Nid, string][] = [[reader.rootNid, '']];
  const seen = new Set<number>();
  for (let next = pending.pop(); next !== undefined && paths.size < nids.size; next = pending.pop()) {
    const [directory, path] = next;
    if (seen.has(directory)) continue;
    seen.add(directory);
    reader.readdir(directory, 0, (nid, type, start, end) => {
      const name = Buffer.from(reader.image.subarray(start, end)).toString('latin1');
      if (name === '.' || name === '..') return true;
      if (nids.has(nid)) paths.set(nid, `${path}/${name}`);
      if (type === FT.directory) pending.push([nid, `${path}/${name}`]);
      return true;
    });
  }
  return paths;
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
