import { describeContent, FormatError } from '../bytes/index.js';
import type { EntryColumns, EntryFields } from './columns.js';
import {
  BLOCK,
  encodeDevice,
  FIELD,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  SPARSE_EXTENSION_FLAG,
  SPARSE_IN_EXTENSION,
  SPARSE_IN_HEADER,
  SPECIAL_MAX,
} from './format.js';
import { checkChecksum, dialectOf, headerDevice, headerPath, sumBytes } from './header.js';
import { parseDecimal, parseField, parsePaxTime, parseString, parseText, printable } from './number.js';
import { collectXattrs, latin1, PaxRecords } from './pax.js';
import { checkSparseMap, oldGnuRealSize, readOldGnuSparse, readPaxSparse, SparseMapReader } from './sparse.js';

export interface TarSink {
  /** Entries are appended to these columns. */
  readonly entries: EntryColumns;
  /** The stored bytes of regular files, in order, as views of the pushed bytes. A sparse file has only its segments. */
  data?(entry: number, view: Uint8Array): void;
}

type State = 'header' | 'special' | 'sparse-extension' | 'sparse-map' | 'data' | 'padding' | 'end';

const EMPTY = new Uint8Array(0);
const REGULAR_TYPES = '0\x007S';

/**
 * Parses a layer as it streams by, in chunks of any size. File data is skipped, not copied.
 *
 * Follows POSIX pax. Where POSIX leaves room it follows Go's archive/tar, since every container engine unpacks with it.
 * Anything that is not a tar throws a FormatError with the layer offset; the parser must not be used afterwards.
 */
export class TarParser {
  readonly #sink: TarSink;
  /** Layer offset of the next byte. */
  #position = 0;
  #state: State = 'header';
  readonly #block = new Uint8Array(BLOCK);
  readonly #words = new Uint32Array(this.#block.buffer);
  #blockFill = 0;
  /** Bytes left in 'data' and 'padding'. */
  #left = 0;
  #padding = 0;
  #zeroBlocks = 0;

  #global = new PaxRecords();
  #local = new PaxRecords();
  #longName: Uint8Array | null = null;
  #longLink: Uint8Array | null = null;

  #special = EMPTY;
  #specialFill = 0;
  #specialType = '';

  /** The entry whose sparse map is still being read. */
  #pending: EntryFields | null = null;
  #pendingStored = 0;
  #pendingMap: number[] = [];
  #mapReader: SparseMapReader | null = null;
  #dataEntry = -1;

  constructor(sink: TarSink) {
    this.#sink = sink;
  }

  /** Bytes parsed so far: the layer's uncompressed size, once all is pushed. */
  get position(): number {
    return this.#position;
  }

  push(view: Uint8Array): void {
    let at = 0;
    while (at < view.length) {
      switch (this.#state) {
        case 'header':
        case 'sparse-extension':
        case 'sparse-map': {
          const take = Math.min(BLOCK - this.#blockFill, view.length - at);
          this.#block.set(view.subarray(at, at + take), this.#blockFill);
          this.#blockFill += take;
          this.#position += take;
          at += take;
          if (this.#blockFill === BLOCK) {
            this.#blockFill = 0;
            this.#onBlock(this.#block);
          }
          break;
        }
        case 'special': {
          const take = Math.min(this.#special.length - this.#specialFill, view.length - at);
          this.#special.set(view.subarray(at, at + take), this.#specialFill);
          this.#specialFill += take;
          this.#position += take;
          at += take;
          if (this.#specialFill === this.#special.length) this.#onSpecial();
          break;
        }
        case 'data': {
          const take = Math.min(this.#left, view.length - at);
          if (this.#dataEntry >= 0) this.#sink.data?.(this.#dataEntry, view.subarray(at, at + take));
          this.#left -= take;
          this.#position += take;
          at += take;
          if (this.#left === 0) this.#startPadding();
          break;
        }
        case 'padding': {
          const take = Math.min(this.#left, view.length - at);
          this.#left -= take;
          this.#position += take;
          at += take;
          if (this.#left === 0) this.#state = 'header';
          break;
        }
        case 'end':
          // Bytes behind the two zero blocks are not part of the archive.
          this.#position += view.length - at;
          return;
      }
    }
  }

  /**
   * Leaves out the file data that comes next, for a caller that can seek past it: the sink does not get it.
   * @returns its bytes
   */
  skipData(): number {
    if (this.#state !== 'data') return 0;
    const bytes = this.#left;
    this.#position += bytes;
    this.#left = 0;
    this.#startPadding();
    return bytes;
  }

  /**
   * The stream is over. Like Go's reader, accepts an archive without its two closing zero blocks, one whose last file lacks
   * its padding, and one that ends after a pax header or a long name that no entry follows; cut anywhere else, it throws.
   */
  finish(): void {
    const fail = (what: string): never => {
      throw new FormatError('tar', this.#position, `truncated: the archive ends inside ${what}`);
    };
    if (this.#state === 'data') fail(`file data, ${this.#left} bytes are missing`);
    if (this.#state === 'special') fail(`a '${this.#specialType}' header's data`);
    if (this.#state === 'sparse-extension' || this.#state === 'sparse-map') fail('a sparse map');
    if (this.#blockFill > 0 && this.#position < BLOCK)
      throw new FormatError(
        'tar',
        0,
        `not a tar archive, but ${describeContent(this.#block.subarray(0, this.#blockFill))}`,
      );
    if (this.#blockFill > 0) fail('a header');
  }

  #onBlock(block: Uint8Array): void {
    if (this.#state === 'header') this.#onHeader(block);
    else if (this.#state === 'sparse-extension') this.#onSparseExtension(block);
    else this.#onSparseMap(block);
  }

  #onHeader(block: Uint8Array): void {
    const at = this.#position - BLOCK;
    const sum = sumBytes(this.#words);
    if (sum === 0) {
      if (++this.#zeroBlocks === 2) this.#state = 'end';
      return;
    }
    if (this.#zeroBlocks > 0)
      throw new FormatError('tar header', at, 'a header after a single block of zeros, expected a second one');
    checkChecksum(block, sum, at);
    const type = String.fromCharCode(block[FIELD.type[0]]!);
    const size = parseField(block, FIELD.size, 'size', at);
    if (size < 0) throw new FormatError('tar header', at + FIELD.size[0], `negative size ${size}`);
    switch (type) {
      case 'x':
      case 'X': // Solaris, before POSIX had settled on 'x'
      case 'g':
      case 'L':
      case 'K':
        this.#startSpecial(type, size, at);
        return;
      case 'V': // GNU volume label
        this.#clearHeaders();
        this.#startData(-1, size);
        return;
      default:
        this.#onEntry(block, type, size, at);
    }
  }

  #startSpecial(type: string, size: number, at: number): void {
    if (size > SPECIAL_MAX)
      throw new FormatError('tar header', at, `'${type}' header of ${size} bytes, at most ${SPECIAL_MAX}`);
    this.#special = new Uint8Array(size);
    this.#specialFill = 0;
    this.#specialType = type;
    this.#state = 'special';
    if (size === 0) this.#onSpecial();
  }

  #onSpecial(): void {
    const payload = this.#special;
    const at = this.#position - payload.length;
    switch (this.#specialType) {
      case 'g':
        // POSIX: "affects all subsequent files … until overridden by another global extended header or an extended header".
        this.#global.parse(payload, at);
        this.#global.settleGlobal(at);
        break;
      case 'L':
        this.#longName = parseString(payload, 0, payload.length);
        break;
      case 'K':
        this.#longLink = parseString(payload, 0, payload.length);
        break;
      default:
        this.#local = new PaxRecords();
        this.#local.parse(payload, at);
    }
    this.#padding = (BLOCK - (payload.length % BLOCK)) % BLOCK;
    this.#startPadding();
  }

  #startPadding(): void {
    this.#left = this.#padding;
    this.#state = this.#left > 0 ? 'padding' : 'header';
  }

  #startData(entry: number, size: number): void {
    this.#dataEntry = entry;
    this.#left = size;
    this.#padding = (BLOCK - (size % BLOCK)) % BLOCK;
    if (size > 0) this.#state = 'data';
    else this.#startPadding();
  }

  #clearHeaders(): void {
    if (this.#local.values.size > 0 || this.#local.sparse.length > 0) this.#local = new PaxRecords();
    this.#longName = null;
    this.#longLink = null;
  }

  #hasPax(): boolean {
    return this.#local.values.size > 0 || this.#local.sparse.length > 0 || this.#global.values.size > 0;
  }

  #pax = (key: string): Uint8Array | undefined => {
    const value = this.#local.values.get(key) ?? this.#global.values.get(key);
    return value === undefined || value.length === 0 ? undefined : value;
  };

  #paxNumber(key: string, fallback: number, at: number): number {
    const value = this.#pax(key);
    if (value === undefined) return fallback;
    const number = parseDecimal(latin1(value));
    if (number === null) throw new FormatError('pax header', at, `${key} is ${printable(value)}, expected a number`);
    if (!Number.isSafeInteger(number))
      throw new FormatError('pax header', at, `${key} is ${printable(value)}, expected at most 2^53 - 1`);
    return number;
  }

  #onEntry(block: Uint8Array, type: string, headerSize: number, at: number): void {
    const dialect = dialectOf(block);
    const entry: EntryFields = {
      mode: (parseField(block, FIELD.mode, 'mode', at) & 0o7777) >>> 0,
      uid: checkId(this.#paxNumber('uid', parseField(block, FIELD.uid, 'uid', at), at), 'uid', at),
      gid: checkId(this.#paxNumber('gid', parseField(block, FIELD.gid, 'gid', at), at), 'gid', at),
      mtime: parseField(block, FIELD.mtime, 'mtime', at),
      mtimeNsec: 0,
      size: 0,
      rdev: 0,
      dataOffset: 0,
      path: this.#longName ?? this.#pax('path') ?? headerPath(block, dialect),
      link: EMPTY,
      xattrs: collectXattrs(this.#global, this.#local),
      extents: null,
    };
    const mtime = this.#pax('mtime');
    if (mtime !== undefined) {
      const time = parsePaxTime(mtime);
      if (time === null)
        throw new FormatError('pax header', at, `mtime is ${printable(mtime)}, expected decimal seconds`);
      entry.mtime = time.sec;
      entry.mtimeNsec = time.nsec;
    }
    const size = this.#paxNumber('size', headerSize, at);
    if (size < 0) throw new FormatError('pax header', at, `negative size ${size}`);
    if (REGULAR_TYPES.includes(type)) {
      // v7 had no type for directories: their names end in a slash. GNU tar and libarchive read so each kind of regular file, in
      // any dialect. Go does it for type NUL alone, and gives data to the others: one that has data is a file.
      if (entry.path[entry.path.length - 1] === 0x2f && (type === '\0' || size === 0)) {
        entry.mode |= S_IFDIR;
        this.#finishEntry(entry, 0);
      } else {
        entry.mode |= S_IFREG;
        this.#onRegular(block, type, entry, size, at);
      }
      return;
    }
    switch (type) {
      case '1':
        entry.link = this.#linkOf(block);
        break;
      case '2':
        // Linux has no permissions on symlinks: an unpacked one is 0777, whatever its header has.
        entry.mode = S_IFLNK | 0o777;
        entry.link = this.#linkOf(block);
        break;
      case '3':
      case '4': {
        entry.mode |= type === '3' ? S_IFCHR : S_IFBLK;
        const [major, minor] = headerDevice(block, dialect, at);
        if (major < 0 || major > 0xfff || minor < 0 || minor > 0xfffff) {
          throw new FormatError(
            'tar header',
            at,
            `device ${major}:${minor}, Linux has 12 bits of major and 20 of minor`,
          );
        }
        entry.rdev = encodeDevice(major, minor);
        break;
      }
      case '5':
        entry.mode |= S_IFDIR;
        break;
      case 'D': // GNU incremental dump: a directory, with a list of its names as data
        entry.mode |= S_IFDIR;
        this.#finishEntry(entry, size);
        return;
      case '6':
        entry.mode |= S_IFIFO;
        break;
      default:
        throw new FormatError(
          'tar header',
          at,
          `entry ${printable(entry.path)} has unknown type ${printable(Buffer.from(type, 'latin1'))}`,
        );
    }
    // Types 1 to 6 have no data, whatever the size field has (as in Go's reader; POSIX leaves it undefined).
    this.#finishEntry(entry, 0);
  }

  #linkOf(block: Uint8Array): Uint8Array {
    return this.#longLink ?? this.#pax('linkpath') ?? parseText(block, FIELD.linkname);
  }

  #onRegular(block: Uint8Array, type: string, entry: EntryFields, size: number, at: number): void {
    const sparse = this.#hasPax() ? readPaxSparse(this.#pax, this.#local, at) : null;
    if (sparse !== null) {
      if (sparse.name !== undefined && this.#longName === null) entry.path = sparse.name;
      entry.size = sparse.realSize;
      this.#pendingStored = size;
      this.#pending = entry;
      if (sparse.map === null) {
        this.#mapReader = new SparseMapReader();
        this.#copyNames(entry);
        this.#state = 'sparse-map';
      } else {
        this.#pendingMap = sparse.map;
        this.#finishSparse(at);
      }
    } else if (type === 'S') {
      entry.size = oldGnuRealSize(block, at);
      this.#pendingStored = size;
      this.#pending = entry;
      this.#pendingMap = [];
      readOldGnuSparse(block, FIELD.gnuSparse[0], SPARSE_IN_HEADER, at, this.#pendingMap);
      if (block[FIELD.gnuIsExtended[0]] !== 0) {
        this.#copyNames(entry);
        this.#state = 'sparse-extension';
      } else this.#finishSparse(at);
    } else {
      entry.size = size;
      entry.dataOffset = this.#position;
      this.#finishEntry(entry, size);
    }
  }

  /** The entry outlives the block it was parsed from. */
  #copyNames(entry: EntryFields): void {
    entry.path = entry.path.slice();
  }

  #onSparseExtension(block: Uint8Array): void {
    const at = this.#position - BLOCK;
    readOldGnuSparse(block, 0, SPARSE_IN_EXTENSION, at, this.#pendingMap);
    if (block[SPARSE_EXTENSION_FLAG] === 0) this.#finishSparse(at);
  }

  #onSparseMap(block: Uint8Array): void {
    const at = this.#position - BLOCK;
    this.#pendingStored -= BLOCK;
    if (this.#pendingStored < 0) throw new FormatError('tar sparse map', at, 'the map is longer than the entry');
    const reader = this.#mapReader!;
    if (!reader.push(block, at)) return;
    this.#pendingMap = reader.map;
    this.#mapReader = null;
    this.#finishSparse(at);
  }

  #finishSparse(at: number): void {
    const entry = this.#pending!;
    entry.extents = checkSparseMap(this.#pendingMap, entry.size, this.#pendingStored, at);
    entry.dataOffset = this.#position;
    this.#pending = null;
    this.#pendingMap = [];
    this.#finishEntry(entry, this.#pendingStored);
  }

  #finishEntry(entry: EntryFields, stored: number): void {
    const index = this.#sink.entries.add(entry);
    this.#clearHeaders();
    this.#startData((entry.mode & S_IFMT) === S_IFREG && this.#sink.data !== undefined ? index : -1, stored);
  }
}

/**
 * docs/architecture.md, "The tree is an EROFS image": owners are u32 in the kernel. Negative numbers of 32 bits (nobody is -2
 * in old archives) wrap as they do in chown(2). There -1 means "leave it", which leaves root where an engine unpacks as root.
 * Beyond 32 bits chown(2) drops bits, and 2^32 would become root: such an owner is refused, as GNU tar does.
 */
function checkId(value: number, name: string, at: number): number {
  if (value > 0xffff_ffff || value < -0x8000_0000)
    throw new FormatError('tar header', at, `${name} ${value} does not fit 32 bits`);
  const id = value >>> 0;
  return id === 0xffff_ffff ? 0 : id;
}
