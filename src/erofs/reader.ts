import type { LayerIndex, Nid } from '../bytes/index.js';
import { crc32c, FormatError } from '../bytes/index.js';
import {
  CHUNK_BITS_MASK,
  CHUNK_INDEX_SIZE,
  CHUNK_INDEXES,
  COMPACT,
  COMPACT_SIZE,
  DEVICE,
  DEVICE_SLOT_SIZE,
  DIRENT_SIZE,
  EXTENDED,
  EXTENDED_SIZE,
  FEATURE_COMPAT_SB_CHECKSUM,
  FEATURE_INCOMPAT_CHUNKED_FILE,
  FEATURE_INCOMPAT_DEVICE_TABLE,
  FORMAT_EXTENDED,
  fileTypeOfMode,
  LAYOUT_CHUNK_BASED,
  LAYOUT_FLAT_INLINE,
  LAYOUT_FLAT_PLAIN,
  LAYOUT_MASK,
  LAYOUT_SHIFT,
  NAME_MAX,
  NID_UNIT,
  NULL_BLOCK,
  SB,
  SUPER_MAGIC,
  SUPER_OFFSET,
  SUPER_SIZE,
  XATTR_HEADER_SIZE,
} from './format.js';
import { InodeView } from './inode.js';
import { XattrReader } from './xattr-reader.js';

/** Return false to stop. Names are the bytes [nameStart, nameEnd) of `image`; `next` is the cookie of the entry after this one. */
export type DirentCallback = (nid: Nid, type: number, nameStart: number, nameEnd: number, next: number) => boolean;
/** `layer` is 0-based, -1 for a hole (layerOffset 0). */
export type RangeCallback = (layer: LayerIndex, layerOffset: number, length: number) => void;

/**
 * Reads an EROFS metadata image in place: a flat Uint8Array over an ArrayBuffer or a SharedArrayBuffer.
 *
 * The image is untrusted: the constructor checks the superblock, and each other part is checked when it is read. A part that is
 * out of bounds throws a FormatError. The work of one call is bounded by the size of the inode's own data in the image.
 * inode(), lookup(), readdir() and mapRange() allocate nothing. Not re-entrant from two threads: one reader per thread.
 */
export class ErofsReader {
  readonly image: Uint8Array;
  readonly blockSize: number;
  readonly rootNid: Nid;
  /** According to the superblock; informative. */
  readonly inodeCount: number;
  /** Sizes of the layers in bytes, a multiple of the block size. Index = layer. */
  readonly deviceBytes: readonly number[];
  readonly deviceTags: readonly string[];
  /** Whether any inode has an xattr, a POSIX ACL. All xattrs are listed in the shared area by our writer (see writer.ts). */
  readonly hasXattrs: boolean;
  readonly hasPosixAcl: boolean;

  readonly #view: DataView;
  readonly #blockBits: number;
  readonly #metaStart: number;
  readonly #epoch: number;
  readonly #fixedNsec: number;
  readonly #xattrs: XattrReader;
  readonly #scratch = new InodeView();
  /** Of the directory that readdir() lists. */
  readonly #listed = new InodeView();
  // Of the directory block that #openBlock() opened last.
  #blockStart = 0;
  #blockLength = 0;
  #blockCount = 0;

  constructor(image: Uint8Array) {
    this.image = image;
    const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
    this.#view = view;
    const at = SUPER_OFFSET;
    const bad = (field: number, detail: string): never => {
      throw new FormatError('EROFS superblock', at + field, detail);
    };
    if (image.length < at + SUPER_SIZE) bad(0, `image of ${image.length} bytes is too short`);
    const magic = view.getUint32(at + SB.magic, true);
    if (magic !== SUPER_MAGIC) bad(SB.magic, `magic 0x${magic.toString(16)}, expected 0x${SUPER_MAGIC.toString(16)}`);
    this.#blockBits = image[at + SB.blockBits]!;
    if (this.#blockBits < 9 || this.#blockBits > 12)
      bad(SB.blockBits, `block bits ${this.#blockBits}, expected 9 to 12`);
    this.blockSize = 1 << this.#blockBits;
    if (image[at + SB.dirBlockBits] !== 0) bad(SB.dirBlockBits, 'directory blocks of more than one block');
    const incompat = view.getUint32(at + SB.featureIncompat, true);
    const known = FEATURE_INCOMPAT_CHUNKED_FILE | FEATURE_INCOMPAT_DEVICE_TABLE;
    if ((incompat & ~known) !== 0) bad(SB.featureIncompat, `unknown incompatible features 0x${incompat.toString(16)}`);
    if (view.getUint32(at + SB.featureCompat, true) & FEATURE_COMPAT_SB_CHECKSUM) {
      const end = at + this.blockSize - (this.blockSize > at ? at : 0);
      if (image.length < end) bad(0, `image of ${image.length} bytes ends inside the superblock's block`);
      const block = new Uint8Array(image.subarray(at, end)); // a Buffer's slice() would be a view
      block.fill(0, SB.checksum, SB.checksum + 4);
      const found = view.getUint32(at + SB.checksum, true);
      if (crc32c(block) !== found) bad(SB.checksum, 'checksum does not match');
    }
    this.#metaStart = view.getUint32(at + SB.metaBlock, true) * this.blockSize;
    this.#epoch = Number(view.getBigInt64(at + SB.epoch, true));
    this.#fixedNsec = view.getUint32(at + SB.fixedNsec, true);
    this.inodeCount = Number(view.getBigUint64(at + SB.inodes, true));

    const devices = incompat & FEATURE_INCOMPAT_DEVICE_TABLE ? view.getUint16(at + SB.extraDevices, true) : 0;
    const table = view.getUint16(at + SB.deviceTableSlot, true) * DEVICE_SLOT_SIZE;
    if (devices > 0 && table + devices * DEVICE_SLOT_SIZE > image.length)
      bad(SB.extraDevices, `${devices} devices do not fit`);
    const bytes: number[] = [];
    const tags: string[] = [];
    for (let i = 0; i < devices; i++) {
      const slot = table + i * DEVICE_SLOT_SIZE;
      bytes.push(view.getUint32(slot + DEVICE.blocks, true) * this.blockSize);
      const tag = Buffer.from(image.slice(slot + DEVICE.tag, slot + DEVICE.tag + DEVICE.tagSize)).toString('latin1');
      tags.push(tag.replace(/\0.*$/s, ''));
    }
    this.deviceBytes = bytes;
    this.deviceTags = tags;
    this.#xattrs = new XattrReader(image, view, view.getUint32(at + SB.xattrBlock, true) * this.blockSize);
    this.hasXattrs = this.#xattrs.hasXattrs;
    this.hasPosixAcl = this.#xattrs.hasPosixAcl;
    this.rootNid = view.getUint16(at + SB.rootNid, true);
    this.inode(this.rootNid, this.#scratch);
    if (!this.#scratch.isDirectory) bad(SB.rootNid, `the root, nid ${this.rootNid}, is not a directory`);
  }

  /** Fills `into`. Throws a FormatError when the inode or the data it owns in the image is out of bounds. */
  inode(nid: Nid, into: InodeView): void {
    const view = this.#view;
    const at = this.#metaStart + nid * NID_UNIT;
    if (!(nid >= 0) || !Number.isInteger(nid) || at + COMPACT_SIZE > this.image.length) {
      throw new FormatError('EROFS inode', at, `nid ${nid} is outside the image`);
    }
    const format = view.getUint16(at, true);
    const xattrCount = view.getUint16(at + COMPACT.xattrCount, true);
    into.nid = nid;
    into.layout = (format >> LAYOUT_SHIFT) & LAYOUT_MASK;
    into.mode = view.getUint16(at + COMPACT.mode, true);
    into.u = view.getUint32(at + COMPACT.u, true);
    into.xattrLength = xattrCount === 0 ? 0 : (xattrCount - 1) * 4 + XATTR_HEADER_SIZE;
    if (format & FORMAT_EXTENDED) {
      if (at + EXTENDED_SIZE > this.image.length) throw new FormatError('EROFS inode', at, `nid ${nid} is cut short`);
      into.size =
        view.getUint32(at + EXTENDED.size, true) + view.getUint32(at + EXTENDED.size + 4, true) * 0x1_0000_0000;
      into.uid = view.getUint32(at + EXTENDED.uid, true);
      into.gid = view.getUint32(at + EXTENDED.gid, true);
      into.mtime =
        view.getUint32(at + EXTENDED.mtime, true) + view.getInt32(at + EXTENDED.mtime + 4, true) * 0x1_0000_0000;
      into.mtimeNsec = view.getUint32(at + EXTENDED.mtimeNsec, true);
      into.nlink = view.getUint32(at + EXTENDED.nlink, true);
      into.xattrStart = at + EXTENDED_SIZE;
    } else {
      into.size = view.getUint32(at + COMPACT.size, true);
      into.uid = view.getUint16(at + COMPACT.uid, true);
      into.gid = view.getUint16(at + COMPACT.gid, true);
      into.mtime = this.#epoch;
      into.mtimeNsec = this.#fixedNsec;
      into.nlink = view.getUint16(at + COMPACT.nlink, true);
      into.xattrStart = at + COMPACT_SIZE;
    }
    into.tail = into.xattrStart + into.xattrLength;
    if (into.tail > this.image.length) throw new FormatError('EROFS inode', at, `xattrs of nid ${nid} are cut short`);
    if (into.size > Number.MAX_SAFE_INTEGER)
      throw new FormatError('EROFS inode', at, `size of nid ${nid} is beyond 2^53`);
    into.rdev = 0;
    switch (fileTypeOfMode(into.mode)) {
      case 2: // directory
      case 7: // symlink
        this.#checkFlat(into, at);
        break;
      case 1: // regular
        if (into.layout === LAYOUT_CHUNK_BASED) this.#checkChunks(into, at);
        else if (into.size !== 0)
          throw new FormatError('EROFS inode', at, `nid ${nid} is a file with data in the image`);
        break;
      case 0:
        throw new FormatError('EROFS inode', at, `nid ${nid} has no file type (mode 0o${into.mode.toString(8)})`);
      default:
        into.rdev = into.u;
    }
  }

  #checkFlat(inode: InodeView, at: number): void {
    const whole = inode.layout === LAYOUT_FLAT_INLINE ? inode.size - (inode.size % this.blockSize) : inode.size;
    if (inode.layout !== LAYOUT_FLAT_INLINE && inode.layout !== LAYOUT_FLAT_PLAIN) {
      throw new FormatError('EROFS inode', at, `nid ${inode.nid} has data layout ${inode.layout}, expected flat`);
    }
    if (whole > 0 && inode.u * this.blockSize + whole > this.image.length) {
      throw new FormatError('EROFS inode', at, `the data of nid ${inode.nid} is outside the image`);
    }
    if (inode.layout === LAYOUT_FLAT_INLINE && inode.tail + (inode.size - whole) > this.image.length) {
      throw new FormatError('EROFS inode', at, `the inline data of nid ${inode.nid} is outside the image`);
    }
  }

  #checkChunks(inode: InodeView, at: number): void {
    if ((inode.u & ~CHUNK_BITS_MASK) !== CHUNK_INDEXES) {
      throw new FormatError('EROFS inode', at, `nid ${inode.nid} has chunk format 0x${inode.u.toString(16)}`);
    }
    const chunk = this.blockSize * 2 ** (inode.u & CHUNK_BITS_MASK);
    const first = (inode.tail + 7) & ~7;
    // `first` is below 2^31 here: an image is at most 2 GiB when its offsets pass through int32 arithmetic.
    if (inode.tail > 0x7fff_fff0 || first + Math.ceil(inode.size / chunk) * CHUNK_INDEX_SIZE > this.image.length) {
      throw new FormatError('EROFS inode', at, `the chunk indexes of nid ${inode.nid} are outside the image`);
    }
  }

  /** The nid that `name`[start, end) has in the directory; -1 if there is none or `parent` is not a directory. */
  lookup(parent: number, name: Uint8Array, start: number, end: number): number {
    const directory = this.#scratch;
    this.inode(parent, directory);
    if (!directory.isDirectory) return -1;
    // Entries are sorted over the whole directory, so each block's first name tells on which side the search goes on.
    let low = 0;
    let high = Math.ceil(directory.size / this.blockSize) - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      this.#openBlock(directory, middle);
      if (this.#compare(0, name, start, end) > 0) high = middle - 1;
      else low = middle;
    }
    if (high < 0) return -1;
    this.#openBlock(directory, low);
    let first = 0;
    let last = this.#blockCount - 1;
    while (first <= last) {
      const middle = (first + last) >>> 1;
      const order = this.#compare(middle, name, start, end);
      if (order === 0) return this.#direntNid(middle);
      if (order > 0) last = middle - 1;
      else first = middle + 1;
    }
    return -1;
  }

  /**
   * Calls `cb` for each entry, `.` and `..` included, in bytewise order, from `cookie` on: 0 is the beginning, and each call
   * names the cookie of the next entry. Cookies stay valid for ever: they are byte positions in the directory.
   */
  readdir(nid: Nid, cookie: number, cb: DirentCallback): void {
    const directory = this.#listed;
    this.inode(nid, directory);
    if (!directory.isDirectory)
      throw new FormatError('EROFS directory', this.#metaStart + nid * NID_UNIT, `nid ${nid} is not a directory`);
    const { size } = directory;
    let position = cookie;
    while (position >= 0 && position < size) {
      const block = Math.floor(position / this.blockSize);
      // `cb` may list another one.
      if (directory.nid !== nid) this.inode(nid, directory);
      this.#openBlock(directory, block);
      const base = block * this.blockSize;
      const index = Math.ceil((position - base) / DIRENT_SIZE);
      if (index >= this.#blockCount) {
        position = base + this.blockSize;
        continue;
      }
      position = index + 1 < this.#blockCount ? base + (index + 1) * DIRENT_SIZE : base + this.blockSize;
      const start = this.#nameStart(index);
      const end = this.#nameEnd(index, start);
      const type = this.image[this.#blockStart + index * DIRENT_SIZE + 10]!;
      if (!cb(this.#direntNid(index), type, start, end, position)) return;
    }
  }

  /** Points the block fields at directory block `index` and checks its first dirent. */
  #openBlock(directory: InodeView, index: number): void {
    const position = index * this.blockSize;
    const length = Math.min(this.blockSize, directory.size - position);
    const inline = directory.layout === LAYOUT_FLAT_INLINE && length < this.blockSize;
    const start = inline ? directory.tail : directory.u * this.blockSize + position;
    const names = length < DIRENT_SIZE ? 0 : this.#view.getUint16(start + 8, true);
    if (names < DIRENT_SIZE || names % DIRENT_SIZE !== 0 || names > length) {
      throw new FormatError(
        'EROFS directory',
        start,
        `first name at ${names} in a block of ${length} bytes (nid ${directory.nid})`,
      );
    }
    this.#blockStart = start;
    this.#blockLength = length;
    this.#blockCount = names / DIRENT_SIZE;
  }

  #nameStart(index: number): number {
    const at = this.#view.getUint16(this.#blockStart + index * DIRENT_SIZE + 8, true);
    if (at < this.#blockCount * DIRENT_SIZE || at >= this.#blockLength) {
      throw new FormatError(
        'EROFS directory',
        this.#blockStart,
        `name ${index} at ${at} in a block of ${this.#blockLength} bytes`,
      );
    }
    return this.#blockStart + at;
  }

  /** A name ends where the next one starts; the last one at a NUL or the end of the block. */
  #nameEnd(index: number, start: number): number {
    let end: number;
    if (index + 1 < this.#blockCount) end = this.#nameStart(index + 1);
    else {
      const limit = this.#blockStart + this.#blockLength;
      end = start;
      while (end < limit && this.image[end] !== 0) end++;
    }
    if (end <= start || end - start > NAME_MAX) {
      throw new FormatError(
        'EROFS directory',
        start,
        `name ${index} has ${end - start} bytes, expected 1 to ${NAME_MAX}`,
      );
    }
    return end;
  }

  #direntNid(index: number): number {
    const at = this.#blockStart + index * DIRENT_SIZE;
    const nid = this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * 0x1_0000_0000;
    if (this.#metaStart + nid * NID_UNIT + COMPACT_SIZE > this.image.length) {
      throw new FormatError('EROFS directory', at, `nid ${nid} is outside the image`);
    }
    return nid;
  }

  /** Bytewise order of entry `index` against a name: negative, 0 or positive. */
  #compare(index: number, name: Uint8Array, start: number, end: number): number {
    const image = this.image;
    let a = this.#nameStart(index);
    const aEnd = this.#nameEnd(index, a);
    let b = start;
    while (a < aEnd && b < end) {
      const order = image[a]! - name[b]!;
      if (order !== 0) return order;
      a++;
      b++;
    }
    return aEnd - a - (end - b);
  }

  /** A symlink's target, as a copy. */
  readlink(nid: Nid): Uint8Array {
    const link = this.#scratch;
    this.inode(nid, link);
    if (!link.isSymlink)
      throw new FormatError('EROFS symlink', this.#metaStart + nid * NID_UNIT, `nid ${nid} is not a symlink`);
    const out = new Uint8Array(link.size);
    const whole = link.layout === LAYOUT_FLAT_INLINE ? link.size - (link.size % this.blockSize) : link.size;
    const start = link.u * this.blockSize;
    out.set(this.image.subarray(start, start + whole));
    out.set(this.image.subarray(link.tail, link.tail + link.size - whole), whole);
    return out;
  }

  /**
   * Calls `cb` for each piece of [offset, offset + length) ∩ file, in order; together they cover it. Neighbouring chunks that
   * are neighbours in the layer come as one piece.
   */
  mapRange(nid: Nid, offset: number, length: number, cb: RangeCallback): void {
    const file = this.#scratch;
    this.inode(nid, file);
    const at = this.#metaStart + nid * NID_UNIT;
    if (!file.isFile) throw new FormatError('EROFS inode', at, `nid ${nid} is not a regular file`);
    const end = Math.min(file.size, offset + length);
    if (!(offset >= 0) || offset >= end) return;
    const chunk = this.blockSize * 2 ** (file.u & CHUNK_BITS_MASK);
    const table = (file.tail + 7) & ~7;
    let layer = -1;
    let layerOffset = 0;
    let pending = 0;
    for (let index = Math.floor(offset / chunk), position = offset; position < end; index++) {
      const entry = table + index * CHUNK_INDEX_SIZE;
      const low = this.#view.getUint32(entry + 4, true);
      const stop = Math.min(end, (index + 1) * chunk);
      let pieceLayer = -1;
      let pieceOffset = 0;
      if (low !== NULL_BLOCK) {
        pieceLayer = this.#view.getUint16(entry + 2, true) - 1;
        pieceOffset = low * this.blockSize + (position - index * chunk);
        const limit = this.deviceBytes[pieceLayer];
        if (limit === undefined || pieceOffset + (stop - position) > limit) {
          throw new FormatError(
            'EROFS chunk index',
            entry,
            `nid ${nid}: block ${low} of device ${pieceLayer + 1} is outside it`,
          );
        }
      }
      if (pending > 0 && pieceLayer === layer && (layer < 0 || layerOffset + pending === pieceOffset))
        pending += stop - position;
      else {
        if (pending > 0) cb(layer, layerOffset, pending);
        layer = pieceLayer;
        layerOffset = pieceOffset;
        pending = stop - position;
      }
      position = stop;
    }
    cb(layer, layerOffset, pending);
  }

  /** The value of the xattr with this full name ("user.x"), as a view of the image; null if the inode does not have it. */
  getXattr(nid: Nid, name: Uint8Array, start = 0, end = name.length): Uint8Array | null {
    this.inode(nid, this.#scratch);
    return this.#xattrs.get(this.#scratch, name, start, end);
  }

  /**
   * Calls `visit` with the full name and the value of each xattr; the name is a copy, the value a view of the image.
   * @throws FormatError for a name index that has no prefix
   */
  eachXattr(nid: number, visit: (name: Uint8Array, value: Uint8Array) => void): void {
    this.inode(nid, this.#scratch);
    this.#xattrs.each(this.#scratch, visit);
  }

  /** Full names, each ended by a NUL, as listxattr(2) gives them. */
  listXattr(nid: Nid): Uint8Array {
    this.inode(nid, this.#scratch);
    return this.#xattrs.list(this.#scratch);
  }

  /** A directory's nid of the entry at a path of names separated by '/'; -1 when there is none. Symlinks are not followed. */
  lookupPath(path: Uint8Array): number {
    let nid = this.rootNid;
    for (let start = 0; start < path.length && nid >= 0; ) {
      let end = start;
      while (end < path.length && path[end] !== 0x2f) end++;
      if (end > start) nid = this.lookup(nid, path, start, end);
      start = end + 1;
    }
    return nid;
  }
}
