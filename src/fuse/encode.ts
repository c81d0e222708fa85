import type { InodeView } from '../erofs/index.js';
import { ATTR, ATTR_OUT, BLOCK_SIZE, DIRENT, ENTRY, ENTRY_SIZE, FOREVER, FUSE_ROOT_ID } from './abi.js';

/** Writes reply structs into one buffer. Every field is written, because the buffer holds earlier replies. */
export class Encoder {
  readonly view: DataView;

  constructor(
    readonly bytes: Uint8Array,
    /** Set per mount: the nid that the kernel calls FUSE_ROOT_ID. */
    public rootNid = 0,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** A safe integer as 64 bits, negative ones in two's complement. */
  u64(at: number, value: number): void {
    const { view } = this;
    view.setUint32(at, value, true); // modulo 2^32 (ToUint32)
    view.setInt32(at + 4, Math.floor(value / 0x1_0000_0000), true);
  }

  /** struct fuse_attr. All times are the mtime, as in EROFS: images record no others. */
  attr(at: number, inode: InodeView): void {
    const { view } = this;
    this.u64(at + ATTR.ino, inode.nid);
    this.u64(at + ATTR.size, inode.size);
    this.u64(at + ATTR.blocks, Math.ceil(inode.size / 512));
    const { mtime, mtimeNsec } = inode;
    this.u64(at + ATTR.atime, mtime);
    this.u64(at + ATTR.mtime, mtime);
    this.u64(at + ATTR.ctime, mtime);
    view.setUint32(at + ATTR.atimensec, mtimeNsec, true);
    view.setUint32(at + ATTR.mtimensec, mtimeNsec, true);
    view.setUint32(at + ATTR.ctimensec, mtimeNsec, true);
    view.setUint32(at + ATTR.mode, inode.mode, true);
    view.setUint32(at + ATTR.nlink, inode.nlink, true);
    view.setUint32(at + ATTR.uid, inode.uid, true);
    view.setUint32(at + ATTR.gid, inode.gid, true);
    view.setUint32(at + ATTR.rdev, inode.rdev, true);
    view.setUint32(at + ATTR.blksize, BLOCK_SIZE, true);
    view.setUint32(at + ATTR.flags, 0, true);
  }

  attrOut(at: number, inode: InodeView): void {
    this.u64(at + ATTR_OUT.attrValid, FOREVER);
    this.u64(at + ATTR_OUT.attrValidNsec, 0);
    this.attr(at + ATTR_OUT.attr, inode);
  }

  entry(at: number, inode: InodeView): void {
    this.#entryHead(at, inode.nid === this.rootNid ? FUSE_ROOT_ID : inode.nid);
    this.attr(at + ENTRY.attr, inode);
  }

  /** "There is no such name", which the kernel may remember: an entry with node id 0. */
  negativeEntry(at: number): void {
    this.#entryHead(at, 0);
    this.bytes.fill(0, at + ENTRY.attr, at + ENTRY_SIZE);
  }

  #entryHead(at: number, nodeid: number): void {
    this.u64(at + ENTRY.nodeid, nodeid);
    this.u64(at + ENTRY.generation, 0);
    this.u64(at + ENTRY.entryValid, FOREVER);
    this.u64(at + ENTRY.attrValid, FOREVER);
    this.u64(at + ENTRY.validNsec, 0);
  }

  /** struct fuse_dirent with its name and padding; gives the position after it. */
  dirent(at: number, ino: number, next: number, type: number, name: Uint8Array, start: number, end: number): number {
    const { view, bytes } = this;
    this.u64(at + DIRENT.ino, ino);
    this.u64(at + DIRENT.off, next);
    view.setUint32(at + DIRENT.namelen, end - start, true);
    view.setUint32(at + DIRENT.type, type, true);
    let to = at + DIRENT.name;
    for (let i = start; i < end; i++) bytes[to++] = name[i]!;
    while ((to & 7) !== 0) bytes[to++] = 0;
    return to;
  }
}
