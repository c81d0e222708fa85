import { S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from './format.js';

/**
 * One inode's fields, filled by ErofsReader.inode(). Reused from call to call, so that reading an inode allocates nothing.
 * `nlink` of a directory is 2 + its subdirectories; `rdev` is new_encode_dev(); times are UTC, and mtime may be negative.
 */
export class InodeView {
  nid = 0;
  mode = 0;
  size = 0;
  uid = 0;
  gid = 0;
  mtime = 0;
  mtimeNsec = 0;
  nlink = 0;
  rdev = 0;
  /** LAYOUT_FLAT_PLAIN, LAYOUT_FLAT_INLINE or LAYOUT_CHUNK_BASED. */
  layout = 0;
  /** i_u as stored: start block, device or chunk format. */
  u = 0;
  /** Image offsets: of the xattr body (length 0: none) and of the data behind it (inline tail, or chunk indexes after alignment to 8). */
  xattrStart = 0;
  xattrLength = 0;
  tail = 0;

  get isDirectory(): boolean {
    return (this.mode & S_IFMT) === S_IFDIR;
  }

  get isFile(): boolean {
    return (this.mode & S_IFMT) === S_IFREG;
  }

  get isSymlink(): boolean {
    return (this.mode & S_IFMT) === S_IFLNK;
  }

  /** The kernel's new_decode_dev(). */
  get rdevMajor(): number {
    return (this.rdev & 0xfff00) >>> 8;
  }

  get rdevMinor(): number {
    return (this.rdev & 0xff) | ((this.rdev >>> 12) & 0xfff00);
  }
}
