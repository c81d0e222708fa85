import { InodeView } from './inode.js';
import type { ErofsReader } from './reader.js';

/** Limit of symlinks followed on the way to a path, as in path_resolution(7). */
const MAX_SYMLINKS = 40;
const SLASH = 0x2f;

function split(path: Uint8Array): Uint8Array[] {
  const parts: Uint8Array[] = [];
  for (let start = 0; start <= path.length; ) {
    const slash = path.indexOf(SLASH, start);
    const end = slash === -1 ? path.length : slash;
    if (end > start) parts.push(path.subarray(start, end));
    start = end + 1;
  }
  return parts;
}

/**
 * The nid at a path of the tree, symlinks on the way (and with `followLast`, or before a trailing slash, a final one) followed
 * inside the root; -1 when there is none.
 */
export function resolvePath(reader: ErofsReader, path: Uint8Array, followLast: boolean): number {
  const inode = new InodeView();
  const parents = [reader.rootNid];
  let todo = split(path);
  let links = 0;
  const trailing = path[path.length - 1] === SLASH;
  while (todo.length > 0) {
    const [name, ...rest] = todo as [Uint8Array, ...Uint8Array[]];
    todo = rest;
    const dots = name.every((byte) => byte === 0x2e) ? name.length : 0;
    if (dots === 1) continue;
    if (dots === 2) {
      if (parents.length > 1) parents.pop();
      continue;
    }
    const nid = reader.lookup(parents.at(-1)!, name, 0, name.length);
    if (nid < 0) return -1;
    reader.inode(nid, inode);
    if (inode.isSymlink && (todo.length > 0 || followLast || trailing)) {
      if (++links > MAX_SYMLINKS) return -1;
      const target = reader.readlink(nid);
      if (target[0] === SLASH) parents.length = 1;
      todo = [...split(target), ...todo];
      continue;
    }
    parents.push(nid);
  }
  return parents.at(-1)!;
}
