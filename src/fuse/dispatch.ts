import { type ErofsReader, InodeView, mapFileRange, type Placement } from '../erofs/index.js';
import { Errno } from '../linux/index.js';
import type { SharedLayer } from '../spans/index.js';
import * as abi from './abi.js';
import { IN, Op, OUT, OUT_HEADER } from './abi.js';
import { Encoder } from './encode.js';
import { Listing } from './listing.js';
import { MISS, type ReadCacheFile, ReadPath } from './read-path.js';

/** One mounted image, as a worker sees it. */
export interface ServedImage {
  readonly reader: ErofsReader;
  readonly layers: readonly SharedLayer[];
  readonly placement: Placement | null;
  readonly kernelReads?: boolean | undefined;
}

/** Results of {@link Dispatcher.handle} without a reply to write. */
export const Outcome = {
  /** The kernel expects none. */
  none: 0,
  /** A read whose bytes are not all here: see `miss`. */
  miss: -1,
  /** The caller of request `interrupted` waits no longer. */
  interrupt: -2,
} as const;

/** lseek(2) gives ENXIO if there is no more data. */
const ENXIO = 6;

/** Requests that would change something. The kernel refuses them on a read-only mount; a remount does not change that. */
const WRITES: ReadonlySet<number> = new Set([
  Op.SETATTR,
  Op.SYMLINK,
  Op.MKNOD,
  Op.MKDIR,
  Op.UNLINK,
  Op.RMDIR,
  Op.RENAME,
  Op.LINK,
  Op.WRITE,
  Op.SETXATTR,
  Op.REMOVEXATTR,
  Op.CREATE,
  Op.FALLOCATE,
  Op.RENAME2,
  Op.TMPFILE,
]);

/**
 * Turns a request into its reply: bytes in `request`, bytes out in `reply`. No I/O but `readCacheFile`; the hot paths
 * (LOOKUP, GETATTR, READDIR, READ) allocate nothing and throw nothing. One instance per worker, one request at a time.
 */
export class Dispatcher {
  /** A read that missed: its nid (not the node id), offset and size. */
  missNid = 0;
  missOffset = 0;
  missSize = 0;
  /** Called with the cause of an answer of EIO. */
  onFault: (error: unknown) => void = () => {};

  readonly #request: DataView;
  readonly #inode = new InodeView();
  readonly #encoder: Encoder;
  readonly #listing: Listing;
  readonly readPath: ReadPath;

  /**
   * @param request at least 8 KiB (FUSE_MIN_READ_BUFFER)
   * @param reply   OUT_HEADER + MAX_READ bytes
   */
  constructor(
    private readonly requestBytes: Uint8Array,
    reply: Uint8Array,
    readCacheFile: ReadCacheFile,
  ) {
    this.#request = new DataView(requestBytes.buffer, requestBytes.byteOffset, requestBytes.byteLength);
    this.#encoder = new Encoder(reply);
    this.#listing = new Listing(this.#encoder);
    this.readPath = new ReadPath(reply, readCacheFile);
  }

  /** Of the request at hand. */
  get unique(): bigint {
    return this.#request.getBigUint64(IN.unique, true);
  }

  get opcode(): number {
    return this.#request.getUint32(IN.opcode, true);
  }

  /** The thread it comes from; 0: none, or one that the mount's process id namespace does not know. */
  get thread(): number {
    return this.#request.getUint32(IN.pid, true);
  }

  /** Of an INTERRUPT: the request it is about. */
  get interrupted(): bigint {
    return this.#request.getBigUint64(abi.IN_HEADER + abi.INTERRUPT_IN.unique, true);
  }

  /** Keeps nothing of the image that it was used for last, which may be gone by now. */
  forget(): void {
    this.#encoder.forget();
    this.#listing.forget();
    this.readPath.forget();
  }

  /** @returns the length of the reply, or an {@link Outcome} */
  handle(image: ServedImage, length: number): number {
    const request = this.#request;
    if (length < abi.IN_HEADER || request.getUint32(IN.len, true) !== length) return this.#error(Errno.EINVAL);
    try {
      this.#encoder.use(image.reader, image.placement);
      return this.#dispatch(image, request.getUint32(IN.opcode, true), length);
    } catch (error) {
      this.onFault(error);
      return this.#error(Errno.EIO);
    }
  }

  #dispatch(image: ServedImage, opcode: number, length: number): number {
    switch (opcode) {
      case Op.LOOKUP:
        return this.#lookup(image, length);
      case Op.GETATTR:
        image.reader.inode(this.#nid(image), this.#inode);
        this.#encoder.attrOut(OUT_HEADER, this.#inode);
        return this.#ok(abi.ATTR_OUT_SIZE);
      case Op.READ:
        return this.#read(image, length);
      case Op.READDIR:
      case Op.READDIRPLUS:
        return this.#readdir(image, length, opcode === Op.READDIRPLUS);
      case Op.READLINK:
        return this.#bytes(image.reader.readlink(this.#nid(image)));
      case Op.FORGET: // the node id is the nid: there is nothing to drop
      case Op.BATCH_FORGET:
      case Op.NOTIFY_REPLY:
        return Outcome.none;
      case Op.INTERRUPT:
        return length < abi.IN_HEADER + 8 ? this.#error(Errno.EINVAL) : Outcome.interrupt;
      case Op.GETXATTR:
      case Op.LISTXATTR:
        return this.#xattr(image, opcode, length);
      case Op.LSEEK:
        return this.#lseek(image, length);
      case Op.STATFS:
        return this.#statfs(image);
      case Op.ACCESS:
        return this.#error(
          length >= abi.IN_HEADER + 4 && this.#request.getUint32(abi.IN_HEADER, true) & abi.W_OK ? Errno.EROFS : 0,
        );
      case Op.INIT:
        return this.#init(image, length);
      case Op.RELEASE:
      case Op.RELEASEDIR:
      case Op.DESTROY:
        return this.#error(0);
      default:
        // ENOSYS to OPEN, OPENDIR, FLUSH, FSYNC, STATX, POLL …: the kernel does without from then on.
        return this.#error(WRITES.has(opcode) ? Errno.EROFS : Errno.ENOSYS);
    }
  }

  #lookup(image: ServedImage, length: number): number {
    const end = length - 1; // the name's NUL
    if (end <= abi.IN_HEADER) return this.#error(Errno.EINVAL);
    if (end - abi.IN_HEADER > abi.NAME_MAX) return this.#error(Errno.ENAMETOOLONG);
    const nid = image.reader.lookup(this.#nid(image), this.requestBytes, abi.IN_HEADER, end);
    if (nid < 0) this.#encoder.negativeEntry(OUT_HEADER);
    else {
      image.reader.inode(nid, this.#inode);
      this.#encoder.entry(OUT_HEADER, this.#inode);
    }
    return this.#ok(abi.ENTRY_SIZE);
  }

  #read(image: ServedImage, length: number): number {
    const request = this.#request;
    if (length < abi.IN_HEADER + abi.READ_IN_SIZE) return this.#error(Errno.EINVAL);
    const nid = this.#nid(image);
    const offset = this.#u64(abi.IN_HEADER + abi.READ_IN.offset);
    const size = Math.min(request.getUint32(abi.IN_HEADER + abi.READ_IN.size, true), abi.MAX_READ);
    const count = this.readPath.read(image.reader, image.placement, image.layers, nid, offset, size, OUT_HEADER);
    if (count === MISS) {
      this.missNid = nid;
      this.missOffset = offset;
      this.missSize = size;
      return Outcome.miss;
    }
    return this.#ok(count);
  }

  #readdir(image: ServedImage, length: number, plus: boolean): number {
    if (length < abi.IN_HEADER + abi.READ_IN_SIZE) return this.#error(Errno.EINVAL);
    const nid = this.#nid(image);
    const cookie = this.#u64(abi.IN_HEADER + abi.READ_IN.offset);
    const size = Math.min(this.#request.getUint32(abi.IN_HEADER + abi.READ_IN.size, true), abi.MAX_READ);
    const end = this.#listing.fill(image.reader, nid, cookie, size, OUT_HEADER, plus);
    return this.#ok(end - OUT_HEADER);
  }

  #xattr(image: ServedImage, opcode: number, length: number): number {
    const from = abi.IN_HEADER + abi.GETXATTR_IN.name;
    if (length < from) return this.#error(Errno.EINVAL);
    const room = this.#request.getUint32(abi.IN_HEADER + abi.GETXATTR_IN.size, true);
    let value: Uint8Array | null;
    if (opcode === Op.GETXATTR) {
      // The kernel never asks again (docs/internals/fuse.md, "Requests that the kernel makes only once").
      if (!image.reader.hasXattrs) return this.#error(Errno.ENOSYS);
      value = image.reader.getXattr(this.#nid(image), this.requestBytes, from, length - 1);
      if (value === null) return this.#error(Errno.ENODATA);
    } else {
      value = image.reader.listXattr(this.#nid(image));
      // Other file systems show trusted.* to CAP_SYS_ADMIN only; the request tells the uid.
      if (this.#request.getUint32(IN.uid, true) !== 0) value = withoutTrusted(value);
    }
    if (room === 0) {
      this.#encoder.u64(OUT_HEADER, value.length);
      return this.#ok(abi.GETXATTR_OUT_SIZE);
    }
    return value.length > room ? this.#error(Errno.ERANGE) : this.#bytes(value);
  }

  #lseek(image: ServedImage, length: number): number {
    if (length < abi.IN_HEADER + abi.LSEEK_IN_SIZE) return this.#error(Errno.EINVAL);
    const nid = this.#nid(image);
    const offset = this.#u64(abi.IN_HEADER + abi.LSEEK_IN.offset);
    const whence = this.#request.getUint32(abi.IN_HEADER + abi.LSEEK_IN.whence, true);
    if (whence !== abi.SEEK_DATA && whence !== abi.SEEK_HOLE) return this.#error(Errno.EINVAL);
    image.reader.inode(nid, this.#inode);
    const { size } = this.#inode;
    if (offset >= size) return this.#error(ENXIO);
    let position = offset;
    let found = -1;
    mapFileRange(image.reader, image.placement, this.#inode, nid, offset, size - offset, (layer, _, piece) => {
      if (found < 0 && layer < 0 === (whence === abi.SEEK_HOLE)) found = position;
      position += piece;
    });
    if (found < 0 && whence === abi.SEEK_DATA) return this.#error(ENXIO);
    this.#encoder.u64(OUT_HEADER, found < 0 ? size : found); // the end of a file counts as a hole
    return this.#ok(abi.LSEEK_OUT_SIZE);
  }

  #statfs(image: ServedImage): number {
    const { view, bytes } = this.#encoder;
    let size = image.reader.image.length;
    for (const layer of image.reader.deviceBytes) size += layer;
    bytes.fill(0, OUT_HEADER, OUT_HEADER + abi.STATFS_SIZE);
    this.#encoder.u64(OUT_HEADER + abi.STATFS.blocks, Math.ceil(size / abi.BLOCK_SIZE));
    this.#encoder.u64(OUT_HEADER + abi.STATFS.files, image.reader.inodeCount);
    view.setUint32(OUT_HEADER + abi.STATFS.bsize, abi.BLOCK_SIZE, true);
    view.setUint32(OUT_HEADER + abi.STATFS.namelen, abi.NAME_MAX, true);
    view.setUint32(OUT_HEADER + abi.STATFS.frsize, abi.BLOCK_SIZE, true);
    return this.#ok(abi.STATFS_SIZE);
  }

  #init(image: ServedImage, length: number): number {
    const request = this.#request;
    const { view, bytes } = this.#encoder;
    const at = abi.IN_HEADER;
    if (length < at + abi.INIT_IN_SHORT) return this.#error(Errno.EINVAL);
    const major = request.getUint32(at + abi.INIT_IN.major, true);
    const minor = request.getUint32(at + abi.INIT_IN.minor, true);
    if (major < abi.FUSE_KERNEL_VERSION || (major === abi.FUSE_KERNEL_VERSION && minor < abi.FUSE_OLDEST_MINOR)) {
      this.onFault(
        new Error(`the kernel speaks FUSE ${major}.${minor}; 7.${abi.FUSE_OLDEST_MINOR} (Linux 5.4) is needed`),
      );
      return this.#error(Errno.EPROTO);
    }
    bytes.fill(0, OUT_HEADER, OUT_HEADER + abi.INIT_OUT_SIZE);
    view.setUint32(OUT_HEADER + abi.INIT_OUT.major, abi.FUSE_KERNEL_VERSION, true);
    view.setUint32(OUT_HEADER + abi.INIT_OUT.minor, abi.FUSE_KERNEL_MINOR, true);
    // A newer major version: the kernel reads no further, and asks again in this one.
    if (major > abi.FUSE_KERNEL_VERSION) return this.#ok(abi.INIT_OUT_SIZE);
    const offered = request.getUint32(at + abi.INIT_IN.flags, true);
    const extended = (offered & abi.FUSE_INIT_EXT) !== 0 && length >= at + abi.INIT_IN.flags2 + 4;
    const offered2 = extended ? request.getUint32(at + abi.INIT_IN.flags2, true) : 0;
    const wanted =
      abi.FUSE_ASYNC_READ |
      abi.FUSE_DO_READDIRPLUS |
      abi.FUSE_READDIRPLUS_AUTO |
      abi.FUSE_NO_OPEN_SUPPORT |
      abi.FUSE_PARALLEL_DIROPS |
      (image.reader.hasPosixAcl ? abi.FUSE_POSIX_ACL : 0) |
      abi.FUSE_MAX_PAGES |
      (image.kernelReads ? abi.FUSE_ASYNC_DIO : 0) |
      abi.FUSE_CACHE_SYMLINKS |
      abi.FUSE_NO_OPENDIR_SUPPORT |
      abi.FUSE_INIT_EXT;
    view.setUint32(
      OUT_HEADER + abi.INIT_OUT.maxReadahead,
      request.getUint32(at + abi.INIT_IN.maxReadahead, true),
      true,
    );
    view.setUint32(OUT_HEADER + abi.INIT_OUT.flags, wanted & offered, true);
    view.setUint16(OUT_HEADER + abi.INIT_OUT.maxBackground, abi.MAX_BACKGROUND, true);
    view.setUint16(OUT_HEADER + abi.INIT_OUT.congestionThreshold, abi.CONGESTION_THRESHOLD, true);
    view.setUint32(OUT_HEADER + abi.INIT_OUT.maxWrite, abi.MAX_WRITE, true);
    view.setUint32(OUT_HEADER + abi.INIT_OUT.timeGran, 1, true); // nanoseconds
    view.setUint16(OUT_HEADER + abi.INIT_OUT.maxPages, abi.MAX_PAGES, true);
    // Neither EXPORT_SUPPORT nor NO_EXPORT_SUPPORT (docs/internals/fuse.md, "Export support").
    view.setUint32(OUT_HEADER + abi.INIT_OUT.flags2, abi.FUSE2_HAS_RESEND & offered2, true);
    return this.#ok(abi.INIT_OUT_SIZE);
  }

  /** The request's node. */
  #nid(image: ServedImage): number {
    const nodeid = this.#u64(IN.nodeid);
    return nodeid === abi.FUSE_ROOT_ID ? image.reader.rootNid : nodeid;
  }

  /** Beyond 2^53 it is not exact, but then it is beyond every file and every inode too. */
  #u64(at: number): number {
    return this.#request.getUint32(at, true) + this.#request.getUint32(at + 4, true) * 0x1_0000_0000;
  }

  #bytes(value: Uint8Array): number {
    this.#encoder.bytes.set(value, OUT_HEADER);
    return this.#ok(value.length);
  }

  #ok(payload: number): number {
    return this.#header(OUT_HEADER + payload, 0);
  }

  #error(errno: number): number {
    return this.#header(OUT_HEADER, -errno);
  }

  #header(length: number, error: number): number {
    const { view } = this.#encoder;
    view.setUint32(OUT.len, length, true);
    view.setInt32(OUT.error, error, true);
    view.setUint32(OUT.unique, this.#request.getUint32(IN.unique, true), true);
    view.setUint32(OUT.unique + 4, this.#request.getUint32(IN.unique + 4, true), true);
    return length;
  }
}

/** Drops the names that start with "trusted." from a list of names that each end in NUL. */
function withoutTrusted(list: Uint8Array): Uint8Array {
  const names = Buffer.from(list).toString('latin1').split('\0');
  const kept = names.filter((name) => name !== '' && !name.startsWith('trusted.'));
  return Buffer.from(kept.map((name) => `${name}\0`).join(''), 'latin1');
}
