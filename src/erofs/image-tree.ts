import { FormatError } from '../bytes/index.js';
import {
  CHUNK_BITS_MASK,
  CHUNK_INDEX_SIZE,
  DIRENT_SIZE,
  fileTypeOfMode,
  LAYOUT_CHUNK_BASED,
  NAME_MAX,
  NID_UNIT,
  S_IFDIR,
  S_IFMT,
} from './format.js';
import { InodeView } from './inode.js';
import { CHUNKS_MAX, FILE_SIZE_MAX } from './placement.js';
import type { ErofsReader } from './reader.js';
import type { TreeSource } from './tree-source.js';

/** PATH_MAX with its NUL: no system call follows a longer link. */
const SYMLINK_MAX = 4095;
const NSEC_MAX = 999_999_999;
/**
 * Values of xattrs over all inodes. Shared ones count for each inode that has them, because the writer looks at each: 256 bytes for
 * each of a million files.
 */
const XATTR_BYTES_MAX = 256 * 1024 * 1024;

const NO_XATTRS: { name: Uint8Array; value: Uint8Array }[] = [];
const SLASH = 0x2f;
const DOT = 0x2e;

type Column = Uint8Array | Uint16Array | Int32Array | Uint32Array | Float64Array;

/** Twice as long, with the same contents. */
function grown<T extends Column>(column: T): T {
  const made = new (column.constructor as new (length: number) => T)(column.length * 2);
  made.set(column);
  return made;
}

/** Inodes in columns that grow. */
class Inodes {
  count = 0;
  nid = new Float64Array(1024);
  mode = new Uint16Array(1024);
  links = new Uint32Array(1024);
  /** Names that were met, and the ".." of directories. */
  named = new Uint32Array(1024);
  uid = new Uint32Array(1024);
  gid = new Uint32Array(1024);
  mtime = new Float64Array(1024);
  mtimeNsec = new Uint32Array(1024);
  size = new Float64Array(1024);
  rdev = new Uint32Array(1024);
  layer = new Int32Array(1024);
  dataOffset = new Float64Array(1024);
  hasXattrs = new Uint8Array(1024);
  childStart = new Uint32Array(1024);
  childEnd = new Uint32Array(1024);

  add(): number {
    if (this.count === this.nid.length) this.#grow();
    return this.count++;
  }

  #grow(): void {
    this.nid = grown(this.nid);
    this.mode = grown(this.mode);
    this.links = grown(this.links);
    this.named = grown(this.named);
    this.uid = grown(this.uid);
    this.gid = grown(this.gid);
    this.mtime = grown(this.mtime);
    this.mtimeNsec = grown(this.mtimeNsec);
    this.size = grown(this.size);
    this.rdev = grown(this.rdev);
    this.layer = grown(this.layer);
    this.dataOffset = grown(this.dataOffset);
    this.hasXattrs = grown(this.hasXattrs);
    this.childStart = grown(this.childStart);
    this.childEnd = grown(this.childEnd);
  }
}

/**
 * The tree of an EROFS image as our writer takes it, every part checked: what the kernel is to mount is written anew from this, so its
 * parser sees bytes of our writer only (docs/internals/erofs.md, "Mounting in the kernel"). Trees that our writer cannot have
 * made are refused. All work is linear in the image's size.
 */
export class ImageTree implements TreeSource {
  readonly root = 0;
  readonly stats: TreeSource['stats'];
  readonly #reader: ErofsReader;
  readonly #layerBytes: readonly number[];
  readonly #view = new InodeView();
  readonly #inodes = new Inodes();
  /** 1 + inode, by nid. */
  readonly #byNid: Uint32Array;
  readonly #extents = new Map<number, Float64Array>();
  #childInodes = new Uint32Array(1024);
  #nameStart = new Uint32Array(1024);
  #nameLength = new Uint8Array(1024);
  #children = 0;
  #chunksLeft: number;
  #linkBytesLeft: number;
  #nameBytesLeft: number;
  #xattrBytesLeft = XATTR_BYTES_MAX;

  /**
   * @param layerBytes sizes of the layers; data beyond them is refused
   * @throws FormatError
   */
  constructor(reader: ErofsReader, layerBytes: readonly number[]) {
    const { length } = reader.image;
    this.#reader = reader;
    this.#layerBytes = layerBytes;
    this.#byNid = new Uint32Array(Math.ceil(length / NID_UNIT) + 1);
    // Of a valid image no two inodes share what they have, so the sums are below its size.
    this.#chunksLeft = Math.floor(length / CHUNK_INDEX_SIZE);
    this.#linkBytesLeft = length;
    this.#nameBytesLeft = length;
    this.#add(reader.rootNid);
    this.#inodes.named[0] = 1;
    let directories = 0;
    const pending = [0];
    for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
      directories++;
      this.#readDirectory(directory, pending);
    }
    for (let inode = 0; inode < this.#inodes.count; inode++) this.#checkLinks(inode);
    this.stats = { directories, overlayXattrs: 0, whiteoutDevices: 0, namelessEntries: 0 };
  }

  #refuse(nid: number, detail: string): never {
    throw new FormatError('EROFS tree', nid * NID_UNIT, `nid ${nid}: ${detail}`);
  }

  /** The inode's number, read when it is met for the first time. */
  #add(nid: number): number {
    const known = this.#byNid[nid]!;
    if (known !== 0) return known - 1;
    const view = this.#view;
    this.#reader.inode(nid, view);
    const columns = this.#inodes;
    const inode = columns.add();
    this.#byNid[nid] = inode + 1;
    columns.nid[inode] = nid;
    columns.mode[inode] = view.mode;
    columns.links[inode] = view.nlink;
    columns.uid[inode] = view.uid;
    columns.gid[inode] = view.gid;
    columns.mtime[inode] = view.mtime;
    columns.mtimeNsec[inode] = view.mtimeNsec;
    columns.size[inode] = view.size;
    columns.rdev[inode] = view.rdev;
    columns.layer[inode] = -1;
    if (view.mtimeNsec > NSEC_MAX) this.#refuse(nid, `${view.mtimeNsec} nanoseconds`);
    if (view.isFile) this.#addData(inode, view);
    else if (view.isSymlink) this.#checkSymlink(view);
    if (view.xattrLength > 0) this.#checkXattrs(inode, nid);
    return inode;
  }

  /** A file's data is one stretch of one layer, with holes in the file where it is sparse. */
  #addData(inode: number, { nid, size, layout, u }: InodeView): void {
    if (size === 0) return;
    if (size > FILE_SIZE_MAX) this.#refuse(nid, `a file of ${size} bytes, at most ${FILE_SIZE_MAX}`);
    if (layout === LAYOUT_CHUNK_BASED) {
      const chunks = Math.ceil(size / (this.#reader.blockSize * 2 ** (u & CHUNK_BITS_MASK)));
      this.#chunksLeft -= chunks;
      if (this.#chunksLeft < 0 || chunks > CHUNKS_MAX) this.#refuse(nid, 'more chunks than the image has room for');
    }
    let layer = -1;
    let start = 0;
    let next = 0;
    let position = 0;
    const pieces: number[] = [];
    this.#reader.mapRange(nid, 0, size, (at, offset, length) => {
      if (at >= 0) {
        if (layer < 0) {
          layer = at;
          start = offset;
        } else if (at !== layer || offset !== next) this.#refuse(nid, 'its data does not lie in one stretch');
        next = offset + length;
        if (next > (this.#layerBytes[at] ?? 0)) this.#refuse(nid, `its data ends at ${next} of layer ${at}`);
        pieces.push(position, length);
      }
      position += length;
    });
    this.#inodes.layer[inode] = layer;
    this.#inodes.dataOffset[inode] = start;
    if (pieces.length !== 2 || pieces[1] !== size) this.#extents.set(inode, Float64Array.from(pieces));
  }

  #checkSymlink({ nid, size }: InodeView): void {
    this.#linkBytesLeft -= size;
    if (size === 0 || size > SYMLINK_MAX || this.#linkBytesLeft < 0) this.#refuse(nid, `a symlink of ${size} bytes`);
    if (this.#reader.readlink(nid).includes(0)) this.#refuse(nid, 'a symlink with a NUL');
  }

  #checkXattrs(inode: number, nid: number): void {
    this.#inodes.hasXattrs[inode] = 1;
    this.#reader.eachXattr(nid, (name, value) => {
      this.#xattrBytesLeft -= name.length + value.length;
      if (this.#xattrBytesLeft < 0) this.#refuse(nid, `xattrs of more than ${XATTR_BYTES_MAX} bytes`);
      if (name.length > NAME_MAX || name.includes(0)) this.#refuse(nid, 'a name of an xattr that Linux does not take');
    });
  }

  #readDirectory(directory: number, pending: number[]): void {
    const { image } = this.#reader;
    const nid = this.#inodes.nid[directory]!;
    let dots = 0;
    let previousStart = 0;
    let previousEnd = 0;
    this.#inodes.childStart[directory] = this.#children;
    this.#reader.readdir(nid, 0, (child, type, start, end) => {
      if (previousEnd > 0 && compareBytes(image, previousStart, previousEnd, start, end) >= 0) {
        this.#refuse(nid, 'its names are not sorted');
      }
      previousStart = start;
      previousEnd = end;
      const length = end - start;
      this.#nameBytesLeft -= length + DIRENT_SIZE;
      if (this.#nameBytesLeft < 0) this.#refuse(nid, 'more names than the image has room for');
      if (image[start] === DOT && (length === 1 || (length === 2 && image[start + 1] === DOT))) {
        dots++;
        return true;
      }
      for (let i = start; i < end; i++) {
        if (image[i] === SLASH || image[i] === 0) this.#refuse(nid, 'a name with a slash or a NUL');
      }
      this.#addChild(directory, child, type, start, length, pending);
      return true;
    });
    if (dots !== 2) this.#refuse(nid, 'not both of . and ..');
    this.#inodes.childEnd[directory] = this.#children;
  }

  #addChild(directory: number, nid: number, type: number, start: number, length: number, pending: number[]): void {
    const columns = this.#inodes;
    const known = columns.count;
    const inode = this.#add(nid);
    const mode = columns.mode[inode]!;
    if (fileTypeOfMode(mode) !== type) this.#refuse(nid, `type ${type} in its directory, mode 0o${mode.toString(8)}`);
    if ((mode & S_IFMT) === S_IFDIR) {
      if (inode < known) this.#refuse(nid, 'a directory with two names');
      pending.push(inode);
      columns.named[directory]!++;
    }
    columns.named[inode]!++;
    if (this.#children === this.#nameStart.length) this.#growChildren();
    this.#childInodes[this.#children] = inode;
    this.#nameStart[this.#children] = start;
    this.#nameLength[this.#children++] = length;
  }

  #growChildren(): void {
    this.#childInodes = grown(this.#childInodes);
    this.#nameStart = grown(this.#nameStart);
    this.#nameLength = grown(this.#nameLength);
  }

  /** A directory is linked by its name, its own "." and the ".." of each directory in it. */
  #checkLinks(inode: number): void {
    const { named, links, mode, nid } = this.#inodes;
    const expected = named[inode]! + ((mode[inode]! & S_IFMT) === S_IFDIR ? 1 : 0);
    if (links[inode] !== expected) this.#refuse(nid[inode]!, `${links[inode]} links, ${expected} found`);
  }

  get inodeLimit(): number {
    return this.#inodes.count;
  }
  childStart(directory: number): number {
    return this.#inodes.childStart[directory]!;
  }
  childEnd(directory: number): number {
    return this.#inodes.childEnd[directory]!;
  }
  childInode(index: number): number {
    return this.#childInodes[index]!;
  }
  childNameArena(): Uint8Array {
    return this.#reader.image;
  }
  childNameStart(index: number): number {
    return this.#nameStart[index]!;
  }
  childNameLength(index: number): number {
    return this.#nameLength[index]!;
  }
  mode(inode: number): number {
    return this.#inodes.mode[inode]!;
  }
  isDirectory(inode: number): boolean {
    return (this.#inodes.mode[inode]! & S_IFMT) === S_IFDIR;
  }
  nlink(inode: number): number {
    return this.#inodes.links[inode]!;
  }
  uid(inode: number): number {
    return this.#inodes.uid[inode]!;
  }
  gid(inode: number): number {
    return this.#inodes.gid[inode]!;
  }
  mtime(inode: number): number {
    return this.#inodes.mtime[inode]!;
  }
  mtimeNsec(inode: number): number {
    return this.#inodes.mtimeNsec[inode]!;
  }
  size(inode: number): number {
    return this.#inodes.size[inode]!;
  }
  rdev(inode: number): number {
    return this.#inodes.rdev[inode]!;
  }
  layer(inode: number): number {
    return this.#inodes.layer[inode]!;
  }
  dataOffset(inode: number): number {
    return this.#inodes.dataOffset[inode]!;
  }
  extents(inode: number): Float64Array | null {
    return this.#extents.get(inode) ?? null;
  }
  symlinkLength(inode: number): number {
    return this.#inodes.size[inode]!;
  }
  symlink(inode: number): Uint8Array {
    return this.#reader.readlink(this.#inodes.nid[inode]!);
  }
  xattrs(inode: number): { name: Uint8Array; value: Uint8Array }[] {
    if (this.#inodes.hasXattrs[inode] === 0) return NO_XATTRS;
    const found: { name: Uint8Array; value: Uint8Array }[] = [];
    this.#reader.eachXattr(this.#inodes.nid[inode]!, (name, value) => found.push({ name, value }));
    return found;
  }
}

/** Bytewise order of two stretches of the image: negative, 0 or positive. */
function compareBytes(bytes: Uint8Array, a: number, aEnd: number, b: number, bEnd: number): number {
  for (; a < aEnd && b < bEnd; a++, b++) {
    const order = bytes[a]! - bytes[b]!;
    if (order !== 0) return order;
  }
  return aEnd - a - (bEnd - b);
}
