import { chmodSync, lchownSync } from 'node:fs';
import type { ErofsReader, InodeView } from '../erofs/index.js';
import { setFileTime, setOpenFileTime, setXattr } from '../linux/index.js';

const PERMISSIONS = 0o7777;

/** Names in a list as listxattr(2) gives it: each ends in NUL. */
function* namesOf(list: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < list.length; ) {
    const end = list.indexOf(0, at);
    yield list.subarray(at, end);
    at = end + 1;
  }
}

/**
 * Makes a file what its inode says, but for its data. In this order: a change of owner clears capabilities and set-uid bits, and
 * every change but that of the times changes a time.
 * @param made the permissions that it was made with
 * @param fd of the file, if it is open: its times are set without looking its path up
 */
export function applyMetadata(
  path: Buffer,
  inode: InodeView,
  reader: ErofsReader,
  owners: boolean,
  made: number,
  fd?: number,
): void {
  const { uid, gid, mode, nid } = inode;
  if (owners && (uid !== 0 || gid !== 0)) lchownSync(path, uid, gid);
  if (inode.xattrLength > 0) {
    for (const name of namesOf(reader.listXattr(nid))) {
      const value = reader.getXattr(nid, name);
      if (value !== null) setXattr(path, name, value);
    }
  }
  // A chown may have cleared bits; a symlink has none.
  const wanted = mode & PERMISSIONS;
  if (!inode.isSymlink && (wanted !== made || (wanted & 0o7000) !== 0)) chmodSync(path, wanted);
  if (fd === undefined) setFileTime(path, inode.mtime, inode.mtimeNsec);
  else setOpenFileTime(fd, inode.mtime, inode.mtimeNsec);
}
