import type { LayerIndex } from '../bytes/index.js';
import { type ErofsReader, InodeView, mapFileRange, type Placement } from '../erofs/index.js';
import { ATTR, ATTR_OUT, BLOCK_SIZE, DIRENT, ENTRY, ENTRY_SIZE, FOREVER, FUSE_ROOT_ID } from './abi.js';

/** Writes reply structs into one buffer. Every field is written, because the buffer holds earlier replies. */
export class Encoder {
  readonly view: DataView;

  /** The nid that the kernel calls FUSE_ROOT_ID. */
  #rootNid = 0;
  #reader: ErofsReader | null = null;
  #placement: Placement | null = null;
  readonly #scratch = new InodeView();
  #allocated = 0;

  constructor(readonly bytes: Uint8Array) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Replies are about this image from now on. */
  use(reader: ErofsReader, placement: Placement | null): void {
    this.#reader = reader;
    this.#placement = placement;
    this.#rootNid = reader.rootNid;
  }

  /** Lets go of the image: its tree would stay in memory. */
  forget(): void {
    this.#reader = null;
    this.#placement = null;
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
    this.u64(at + ATTR.blocks, Math.ceil(this.#stored(inode) / 512));
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

  /**
   * Bytes of a file that are no holes: cp(1) and tar(1) look for holes only in a file that takes less room than its size. The
   * kernel asks once per inode, so the walk over the chunks of a sparse file is paid once.
   */
  #stored(inode: InodeView): number {
    if (!inode.isFile || inode.size === 0) return inode.size;
    this.#allocated = 0;
    mapFileRange(this.#reader!, this.#placement, this.#scratch, inode.nid, 0, inode.size, this.#add);
    return this.#allocated;
  }

  readonly #add = (layer: LayerIndex, _offset: number, length: number): void => {
    if (layer >= 0) this.#allocated += length;
  };

  attrOut(at: number, inode: InodeView): void {
    this.u64(at + ATTR_OUT.attrValid, FOREVER);
    this.u64(at + ATTR_OUT.attrValidNsec, 0);
    this.attr(at + ATTR_OUT.attr, inode);
  }

  entry(at: number, inode: InodeView): void {
    this.#entryHead(at, inode.nid === this.#rootNid ? FUSE_ROOT_ID : inode.nid);
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
