import { ClipError, crc32c } from '../bytes/index.js';
import { DirectoryPacker } from './directory.js';
import {
  BLOCK,
  CHUNK_INDEX_SIZE,
  COMPACT,
  COMPACT_SIZE,
  DEVICE,
  DEVICE_SLOT_SIZE,
  EXTENDED,
  EXTENDED_SIZE,
  FEATURE_COMPAT_MTIME,
  FEATURE_COMPAT_SB_CHECKSUM,
  FEATURE_INCOMPAT_CHUNKED_FILE,
  FEATURE_INCOMPAT_DEVICE_TABLE,
  FORMAT_EXTENDED,
  LAYOUT_CHUNK_BASED,
  LAYOUT_FLAT_INLINE,
  LAYOUT_FLAT_PLAIN,
  LAYOUT_SHIFT,
  NID_UNIT,
  NULL_BLOCK,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  SB,
  SUPER_MAGIC,
  SUPER_OFFSET,
  SUPER_SIZE,
  XATTR_HEADER_SIZE,
} from './format.js';
import { type ChunkPlan, FILE_SIZE_MAX, type Placement, PlacementBuilder, planChunks } from './placement.js';
import type { TreeSource } from './tree-source.js';
import { XattrWriter } from './xattr-writer.js';

/** The reader computes offsets as int32. 2 GiB of tree is some 20 million files. */
const IMAGE_MAX = 0x7fff_0000;
/** Distinct mtimes that are counted to find the commonest. This bounds memory; an image with more has no common one. */
const MTIMES_MAX = 65_536;

export interface ErofsOptions {
  /**
   * 512, so that every tar's data can be placed. 4096 is for images that fsck.erofs 1.5 must read (it knows its page size only);
   * data that is not so aligned then goes to the placement.
   */
  readonly blockSize?: 512 | 4096;
}

export interface ErofsDevice {
  /** At most 64 bytes of ASCII: the layer's digest in hex. */
  readonly tag: string;
  /** Size of the uncompressed layer in 512-byte blocks, rounded up. */
  readonly blocks: number;
}

export interface ErofsStats {
  readonly inodes: number;
  readonly compactInodes: number;
  readonly directories: number;
  /** Files whose extents are in the placement section: the kernel cannot serve such an archive. */
  readonly placedFiles: number;
  /** xattrs that EROFS cannot hold: unknown namespaces, names over 255 or values over 65,535 bytes. */
  readonly droppedXattrs: number;
  readonly overlayXattrs: number;
  readonly whiteoutDevices: number;
  /** Entries without a name that are no directories: see TreeStats. */
  readonly namelessEntries: number;
}

export interface ErofsImage {
  readonly image: Uint8Array<ArrayBuffer>;
  readonly placement: Placement | null;
  /** nid by tree inode; 0 for inodes that are not in the tree. */
  readonly nids: Uint32Array;
  readonly stats: ErofsStats;
}

/**
 * Writes the tree as an EROFS metadata image that the kernel mounts, with one device per layer (docs/internals/erofs.md). The
 * same tree gives the same bytes.
 *
 * Layout: superblock, device table, inodes, directory blocks, shared xattrs. Inodes come in the order of a walk: a
 * directory, its files, then its subdirectories, so that names that are listed together lie together.
 *
 * @throws ClipError LIMIT for a file beyond 64 TiB or a tree beyond 2 GiB
 */
export function writeErofs(tree: TreeSource, devices: readonly ErofsDevice[], options: ErofsOptions = {}): ErofsImage {
  return new Writer(tree, devices, options.blockSize ?? BLOCK).write();
}

class Writer {
  readonly #blockSize: number;
  readonly #tree: TreeSource;
  readonly #devices: readonly ErofsDevice[];
  readonly #packer: DirectoryPacker;
  readonly #xattrs = new XattrWriter();
  readonly #placement = new PlacementBuilder();
  readonly #nids: Uint32Array;
  /** Inodes in the order of the walk. */
  readonly #order: Uint32Array;
  #orderLength = 0;
  /** By inode: a directory's parent; other inodes do not need the column. */
  readonly #parents: Uint32Array;
  #epoch = 0;
  #epochNsec = 0;
  #compact = 0;
  #placed = 0;
  readonly #plan: ChunkPlan = { format: 0, chunkSize: 0, chunks: 0, placed: false };

  /** Of directories and symlinks, in the order of the walk. */
  readonly #sizes: Uint32Array;
  /** Bytes of whole blocks outside of the inodes. */
  #outside = 0;
  #end = 0;
  #gapStart = 0;
  #gapEnd = 0;

  constructor(tree: TreeSource, devices: readonly ErofsDevice[], blockSize: number) {
    this.#blockSize = blockSize;
    this.#tree = tree;
    this.#devices = devices;
    this.#packer = new DirectoryPacker(tree, blockSize);
    this.#nids = new Uint32Array(tree.inodeLimit);
    this.#order = new Uint32Array(tree.inodeLimit);
    this.#sizes = new Uint32Array(tree.inodeLimit);
    this.#parents = new Uint32Array(tree.inodeLimit);
  }

  write(): ErofsImage {
    this.#walk();
    this.#chooseEpoch();
    this.#end = SUPER_OFFSET + SUPER_SIZE + this.#devices.length * DEVICE_SLOT_SIZE;
    for (let i = 0; i < this.#orderLength; i++) this.#place(i);
    const blocksAt = align(this.#end, this.#blockSize);
    const blocksEnd = blocksAt + this.#outside;
    const size = align(blocksEnd + this.#xattrs.sharedSize, this.#blockSize);
    if (size > IMAGE_MAX) throw new ClipError('LIMIT', `the tree takes ${size} bytes, at most ${IMAGE_MAX}`);
    const image = new Uint8Array(size);
    const view = new DataView(image.buffer);
    let outside = blocksAt;
    for (let i = 0; i < this.#orderLength; i++) outside = this.#writeInode(i, image, view, outside);
    this.#xattrs.writeShared(image, blocksEnd);
    this.#writeSuper(image, view, this.#xattrs.sharedSize > 0 ? blocksEnd / this.#blockSize : 0);
    const { directories, overlayXattrs, whiteoutDevices, namelessEntries } = this.#tree.stats;
    const counted = {
      directories,
      overlayXattrs,
      whiteoutDevices,
      namelessEntries,
      droppedXattrs: this.#xattrs.dropped,
      placedFiles: this.#placed,
    };
    const stats = { inodes: this.#orderLength, compactInodes: this.#compact, ...counted };
    return { image, placement: this.#placement.finish(), nids: this.#nids, stats };
  }

  /** Puts every inode into #order once; nids serve as marks until they are assigned. */
  #walk(): void {
    const tree = this.#tree;
    const stack = [tree.root];
    this.#parents[tree.root] = tree.root;
    for (let directory = stack.pop(); directory !== undefined; directory = stack.pop()) {
      this.#order[this.#orderLength++] = directory;
      const end = tree.childEnd(directory);
      for (let child = tree.childStart(directory); child < end; child++) {
        const inode = tree.childInode(child);
        if (tree.isDirectory(inode) || this.#nids[inode] !== 0) continue;
        this.#nids[inode] = 1;
        this.#order[this.#orderLength++] = inode;
      }
      for (let child = end - 1; child >= tree.childStart(directory); child--) {
        const inode = tree.childInode(child);
        if (!tree.isDirectory(inode)) continue;
        this.#parents[inode] = directory;
        stack.push(inode);
      }
    }
  }

  /** Inodes with the commonest mtime can be compact, because compact inodes have the superblock's mtime. */
  #chooseEpoch(): void {
    const counts = new Map<number, Map<number, number>>();
    let different = 0;
    let best = 0;
    for (let i = 0; i < this.#orderLength; i++) {
      const sec = this.#tree.mtime(this.#order[i]!);
      const nsec = this.#tree.mtimeNsec(this.#order[i]!);
      let bySec = counts.get(sec);
      const seen = bySec?.get(nsec) ?? 0;
      if (seen === 0) {
        if (different === MTIMES_MAX) continue;
        different++;
        if (bySec === undefined) {
          bySec = new Map();
          counts.set(sec, bySec);
        }
      }
      bySec!.set(nsec, seen + 1);
      if (seen + 1 > best) {
        best = seen + 1;
        this.#epoch = sec;
        this.#epochNsec = nsec;
      }
    }
    // The superblock's documentation has an unsigned epoch: only values on which all readers agree are used.
    if (this.#epoch < 0) {
      this.#epoch = 0;
      this.#epochNsec = 0;
    }
  }

  #sizeOf(inode: number): number {
    const tree = this.#tree;
    switch (tree.mode(inode) & S_IFMT) {
      case S_IFREG:
        return tree.size(inode);
      case S_IFDIR:
        return this.#packer.size(inode);
      case S_IFLNK:
        return tree.symlinkLength(inode);
      default:
        return 0;
    }
  }

  #isCompact(inode: number, size: number): boolean {
    const tree = this.#tree;
    return (
      tree.mtime(inode) === this.#epoch &&
      tree.mtimeNsec(inode) === this.#epochNsec &&
      tree.uid(inode) <= 0xffff &&
      tree.gid(inode) <= 0xffff &&
      tree.nlink(inode) <= 0xffff &&
      size <= 0xffff_ffff
    );
  }

  /** Length of the last, inline part of a directory or symlink; 0 when its data is all outside. */
  #inlineSize(size: number, header: number): number {
    const tail = size % this.#blockSize;
    return header + tail <= this.#blockSize ? tail : 0;
  }

  /** Finds a place for the inode and the data behind it. */
  #place(index: number): void {
    const tree = this.#tree;
    const inode = this.#order[index]!;
    const type = tree.mode(inode) & S_IFMT;
    const size = this.#sizeOf(inode);
    const header = (this.#isCompact(inode, size) ? COMPACT_SIZE : EXTENDED_SIZE) + this.#xattrs.add(tree, inode);
    let length = header;
    let tail = 0;
    if (type === S_IFREG && size > 0) {
      if (size > FILE_SIZE_MAX) throw new ClipError('LIMIT', `a file of ${size} bytes, at most ${FILE_SIZE_MAX}`);
      planChunks(tree, inode, this.#blockSize, this.#plan);
      length = align(header, 8) + this.#plan.chunks * CHUNK_INDEX_SIZE;
    } else if (type === S_IFDIR || type === S_IFLNK) {
      this.#sizes[index] = size;
      tail = this.#inlineSize(size, header);
      this.#outside += align(size - tail, this.#blockSize);
    }
    length = align(length + tail, NID_UNIT);
    if (tail === 0 && this.#gapEnd - this.#gapStart >= length) {
      this.#nids[inode] = this.#gapStart / NID_UNIT;
      this.#gapStart += length;
      return;
    }
    let at = this.#end;
    // An inline tail must not cross a block boundary. Inodes without a tail fill the resulting gap.
    if (tail > 0) while (((at + header) % this.#blockSize) + tail > this.#blockSize) at += NID_UNIT;
    if (at - this.#end > this.#gapEnd - this.#gapStart) {
      this.#gapStart = this.#end;
      this.#gapEnd = at;
    }
    this.#nids[inode] = at / NID_UNIT;
    this.#end = at + length;
    if (this.#end > IMAGE_MAX) throw new ClipError('LIMIT', `the inodes take more than ${IMAGE_MAX} bytes`);
  }

  #headerSize(inode: number, compact: boolean): number {
    return (compact ? COMPACT_SIZE : EXTENDED_SIZE) + (this.#xattrs.bodyOf(inode)?.length ?? 0);
  }

  /** Writes the inode and its data; returns the place of the next whole blocks. */
  #writeInode(index: number, image: Uint8Array, view: DataView, outside: number): number {
    const tree = this.#tree;
    const inode = this.#order[index]!;
    const mode = tree.mode(inode);
    const type = mode & S_IFMT;
    const size = type === S_IFREG ? tree.size(inode) : this.#sizes[index]!;
    const compact = this.#isCompact(inode, size);
    const body = this.#xattrs.bodyOf(inode);
    const at = this.#nids[inode]! * NID_UNIT;
    const tail = at + this.#headerSize(inode, compact);
    let layout = LAYOUT_FLAT_PLAIN;
    let u = 0;
    let next = outside;
    if (type === S_IFREG && size > 0) {
      layout = LAYOUT_CHUNK_BASED;
      u = this.#writeChunks(inode, view, align(tail, 8));
    } else if (type === S_IFDIR || type === S_IFLNK) {
      const inline = this.#inlineSize(size, tail - at);
      const whole = size - inline;
      if (inline > 0) layout = LAYOUT_FLAT_INLINE;
      if (whole > 0) u = outside / this.#blockSize;
      next = outside + align(whole, this.#blockSize);
      if (type === S_IFLNK) {
        const target = tree.symlink(inode);
        image.set(target.subarray(0, whole), outside);
        image.set(target.subarray(whole), tail);
      } else {
        const last = inline > 0 ? tail : outside + align(whole, this.#blockSize) - this.#blockSize;
        this.#packer.write(inode, this.#parents[inode]!, this.#nids, image, view, outside, last);
      }
    } else if (type !== S_IFREG) u = tree.rdev(inode);
    view.setUint16(at + COMPACT.format, (layout << LAYOUT_SHIFT) | (compact ? 0 : FORMAT_EXTENDED), true);
    view.setUint16(at + COMPACT.xattrCount, body === null ? 0 : (body.length - XATTR_HEADER_SIZE) / 4 + 1, true);
    view.setUint16(at + COMPACT.mode, mode, true);
    view.setUint32(at + COMPACT.u, u, true);
    if (compact) {
      this.#compact++;
      view.setUint16(at + COMPACT.nlink, tree.nlink(inode), true);
      view.setUint32(at + COMPACT.size, size, true);
      view.setUint16(at + COMPACT.uid, tree.uid(inode), true);
      view.setUint16(at + COMPACT.gid, tree.gid(inode), true);
    } else {
      setUint64(view, at + EXTENDED.size, size);
      view.setUint32(at + EXTENDED.uid, tree.uid(inode), true);
      view.setUint32(at + EXTENDED.gid, tree.gid(inode), true);
      setUint64(view, at + EXTENDED.mtime, tree.mtime(inode));
      view.setUint32(at + EXTENDED.mtimeNsec, tree.mtimeNsec(inode), true);
      view.setUint32(at + EXTENDED.nlink, tree.nlink(inode), true);
    }
    if (body !== null) image.set(body, tail - body.length);
    return next;
  }

  /** Returns i_u. */
  #writeChunks(inode: number, view: DataView, at: number): number {
    const tree = this.#tree;
    const plan = this.#plan;
    planChunks(tree, inode, this.#blockSize, plan);
    const extents = tree.extents(inode);
    const holes = plan.placed || extents !== null;
    if (holes) {
      for (let i = 0; i < plan.chunks * 2; i++) view.setUint32(at + i * 4, NULL_BLOCK, true);
    }
    if (plan.placed) {
      this.#placed++;
      this.#placement.add(tree, inode, this.#nids[inode]!);
      return plan.format;
    }
    const device = tree.layer(inode) + 1;
    let position = tree.dataOffset(inode);
    if (plan.chunks === 1 && extents === null) {
      view.setUint16(at + 2, device, true);
      view.setUint32(at + 4, position / this.#blockSize, true);
      return plan.format;
    }
    const pairs = extents ?? [0, tree.size(inode)];
    for (let p = 0; p < pairs.length; p += 2) {
      const length = pairs[p + 1]!;
      for (let done = 0, index = pairs[p]! / plan.chunkSize; done < length; done += plan.chunkSize, index++) {
        const entry = at + index * CHUNK_INDEX_SIZE;
        view.setUint16(entry, 0, true);
        view.setUint16(entry + 2, device, true);
        view.setUint32(entry + 4, (position + done) / this.#blockSize, true);
      }
      position += length;
    }
    return plan.format;
  }

  #writeSuper(image: Uint8Array, view: DataView, xattrBlock: number): void {
    const at = SUPER_OFFSET;
    view.setUint32(at + SB.magic, SUPER_MAGIC, true);
    view.setUint32(at + SB.featureCompat, FEATURE_COMPAT_SB_CHECKSUM | FEATURE_COMPAT_MTIME, true);
    image[at + SB.blockBits] = Math.log2(this.#blockSize);
    view.setUint16(at + SB.rootNid, this.#nids[this.#tree.root]!, true);
    setUint64(view, at + SB.inodes, this.#orderLength);
    setUint64(view, at + SB.epoch, this.#epoch);
    view.setUint32(at + SB.fixedNsec, this.#epochNsec, true);
    view.setUint32(at + SB.blocks, image.length / this.#blockSize, true);
    view.setUint32(at + SB.xattrBlock, xattrBlock, true);
    const devices = this.#devices.length;
    view.setUint32(
      at + SB.featureIncompat,
      FEATURE_INCOMPAT_CHUNKED_FILE | (devices > 0 ? FEATURE_INCOMPAT_DEVICE_TABLE : 0),
      true,
    );
    view.setUint16(at + SB.extraDevices, devices, true);
    view.setUint16(at + SB.deviceTableSlot, devices > 0 ? (at + SUPER_SIZE) / DEVICE_SLOT_SIZE : 0, true);
    for (let i = 0; i < devices; i++) {
      const slot = at + SUPER_SIZE + i * DEVICE_SLOT_SIZE;
      const { tag, blocks } = this.#devices[i]!;
      // The 32-bit block count of a slot is the format's limit on a layer: 2 TiB.
      if (blocks > 0xffff_ffff)
        throw new ClipError('LIMIT', `layer ${i + 1} has ${blocks} blocks of 512 bytes, at most ${0xffff_ffff}`);
      image.set(Buffer.from(tag, 'latin1').subarray(0, DEVICE.tagSize), slot + DEVICE.tag);
      view.setUint32(slot + DEVICE.blocks, Math.ceil((blocks * BLOCK) / this.#blockSize), true);
    }
    // "One block from the superblock on"; if blocks are larger, the rest of the superblock's block.
    const end = this.#blockSize > at ? this.#blockSize : at + this.#blockSize;
    view.setUint32(at + SB.checksum, crc32c(image.subarray(at, end)), true);
  }
}

function align(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/** Two's complement for negative values. */
function setUint64(view: DataView, at: number, value: number): void {
  const high = Math.floor(value / 0x1_0000_0000);
  view.setUint32(at, value - high * 0x1_0000_0000, true);
  view.setInt32(at + 4, high, true);
}
