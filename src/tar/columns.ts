import { ClipError } from '../bytes/index.js';
import { ENTRIES_MAX, NAMES_MAX, S_IFMT } from './format.js';

/** One entry, before it is appended. Paths are raw bytes, as the tar has them (not cleaned). */
export interface EntryFields {
  /** st_mode with its type bits; type 0 is a hard link, whose `link` names the target. */
  mode: number;
  uid: number;
  gid: number;
  mtime: number;
  mtimeNsec: number;
  /** Of the file as read; 0 unless regular. */
  size: number;
  /** new_encode_dev(). */
  rdev: number;
  /** Layer offset of the stored bytes of a regular file. */
  dataOffset: number;
  path: Uint8Array;
  link: Uint8Array;
  /** Full names as latin1 strings ("user.x"), or null. */
  xattrs: ReadonlyMap<string, Uint8Array> | null;
  /** Of a sparse file: (file offset, length) pairs, ascending, non-empty; stored one after another at dataOffset. */
  extents: readonly number[] | null;
}

/** The result of EntryColumns.toTransfer() and the input of fromTransfer(): plain data that postMessage can move. */
export interface EntryTransfer {
  readonly count: number;
  readonly words: Uint32Array<ArrayBuffer>;
  readonly arena: Uint8Array<ArrayBuffer>;
  /** Bytes and numbers of the next two that are in use; default all. */
  readonly arenaUsed?: number;
  readonly extents: Float64Array<ArrayBuffer>;
  readonly extentsUsed?: number;
}

/** u32 words of one record; the first six are three float64. */
export const STRIDE = 16;
export const W = {
  nsec: 6,
  mode: 7,
  uid: 8,
  gid: 9,
  rdev: 10,
  path: 11,
  pathLength: 12,
  linkLength: 13,
  xattrs: 14,
  extents: 15,
} as const;
const SPLIT_HINT = 'build a smaller layer: its index would take gigabytes of memory';
export const F = { size: 0, mtime: 1, dataOffset: 2 } as const;

/**
 * The entries of one layer in the order of its tar: 64 bytes each, and their names and xattrs in one arena, so that a million
 * of them cost about 130 MB and can be moved between threads without copying.
 */
export class EntryColumns {
  count = 0;
  #words = new Uint32Array(STRIDE * 64);
  #floats = new Float64Array(this.#words.buffer);
  /** Byte 0 and pair 0 are never used: position 0 means "none". */
  #arena = new Uint8Array(4096);
  #arenaUsed = 1;
  #extents = new Float64Array(8);
  #extentsUsed = 2;

  add(entry: EntryFields): number {
    const index = this.count;
    if ((index + 1) * STRIDE > this.#words.length) {
      // A power of two, as the capacity: looking at it here is enough.
      if (index >= ENTRIES_MAX)
        throw new ClipError('LIMIT', `it has more than ${ENTRIES_MAX} entries`, { hint: SPLIT_HINT });
      const grown = new Uint32Array(this.#words.length * 2);
      grown.set(this.#words);
      this.#words = grown;
      this.#floats = new Float64Array(grown.buffer);
    }
    const w = index * STRIDE;
    const f = index * (STRIDE / 2);
    this.#floats[f + F.size] = entry.size;
    this.#floats[f + F.mtime] = entry.mtime;
    this.#floats[f + F.dataOffset] = entry.dataOffset;
    this.#words[w + W.nsec] = entry.mtimeNsec;
    this.#words[w + W.mode] = entry.mode;
    this.#words[w + W.uid] = entry.uid;
    this.#words[w + W.gid] = entry.gid;
    this.#words[w + W.rdev] = entry.rdev;
    this.#words[w + W.path] = this.#append(entry.path);
    this.#words[w + W.pathLength] = entry.path.length;
    this.#append(entry.link);
    this.#words[w + W.linkLength] = entry.link.length;
    this.#words[w + W.xattrs] = entry.xattrs === null || entry.xattrs.size === 0 ? 0 : this.#appendXattrs(entry.xattrs);
    this.#words[w + W.extents] = entry.extents === null ? 0 : this.#appendExtents(entry.extents);
    this.count = index + 1;
    return index;
  }

  #reserve(length: number): number {
    const at = this.#arenaUsed;
    const need = at + length;
    if (need > NAMES_MAX)
      throw new ClipError('LIMIT', `its names, link targets and xattrs exceed ${NAMES_MAX} bytes`, {
        hint: SPLIT_HINT,
      });
    if (need > this.#arena.length) {
      const grown = new Uint8Array(Math.min(NAMES_MAX, Math.max(need, this.#arena.length * 2)));
      grown.set(this.#arena.subarray(0, at));
      this.#arena = grown;
    }
    this.#arenaUsed = need;
    return at;
  }

  #append(bytes: Uint8Array): number {
    const at = this.#reserve(bytes.length);
    this.#arena.set(bytes, at);
    return at;
  }

  /** count u32, then for each: name length u16, value length u32, name, value; sorted by name. */
  #appendXattrs(xattrs: ReadonlyMap<string, Uint8Array>): number {
    const names = [...xattrs.keys()].sort();
    const start = this.#reserve(4);
    new DataView(this.#arena.buffer).setUint32(start, names.length, true);
    for (const name of names) {
      const value = xattrs.get(name)!;
      const at = this.#reserve(6 + name.length + value.length);
      const view = new DataView(this.#arena.buffer);
      view.setUint16(at, name.length, true);
      view.setUint32(at + 2, value.length, true);
      this.#arena.set(Buffer.from(name, 'latin1'), at + 6);
      this.#arena.set(value, at + 6 + name.length);
    }
    return start;
  }

  #appendExtents(pairs: readonly number[]): number {
    const at = this.#extentsUsed;
    const need = at + 2 + pairs.length;
    if (need > this.#extents.length) {
      const grown = new Float64Array(Math.max(need, this.#extents.length * 2));
      grown.set(this.#extents.subarray(0, at));
      this.#extents = grown;
    }
    this.#extents[at] = pairs.length / 2;
    for (let i = 0; i < pairs.length; i++) this.#extents[at + 2 + i] = pairs[i]!;
    this.#extentsUsed = need;
    return at / 2;
  }

  size(i: number): number {
    return this.#floats[i * (STRIDE / 2) + F.size]!;
  }
  mtime(i: number): number {
    return this.#floats[i * (STRIDE / 2) + F.mtime]!;
  }
  dataOffset(i: number): number {
    return this.#floats[i * (STRIDE / 2) + F.dataOffset]!;
  }
  mtimeNsec(i: number): number {
    return this.#words[i * STRIDE + W.nsec]!;
  }
  mode(i: number): number {
    return this.#words[i * STRIDE + W.mode]!;
  }
  isHardLink(i: number): boolean {
    return (this.mode(i) & S_IFMT) === 0;
  }
  uid(i: number): number {
    return this.#words[i * STRIDE + W.uid]!;
  }
  gid(i: number): number {
    return this.#words[i * STRIDE + W.gid]!;
  }
  rdev(i: number): number {
    return this.#words[i * STRIDE + W.rdev]!;
  }
  /** Paths and link targets as ranges of `arena`: the link follows its path. */
  pathStart(i: number): number {
    return this.#words[i * STRIDE + W.path]!;
  }
  pathEnd(i: number): number {
    return this.pathStart(i) + this.#words[i * STRIDE + W.pathLength]!;
  }
  linkStart(i: number): number {
    return this.pathEnd(i);
  }
  linkEnd(i: number): number {
    return this.pathEnd(i) + this.#words[i * STRIDE + W.linkLength]!;
  }
  /** Valid until the next add(). */
  get arena(): Uint8Array {
    return this.#arena;
  }

  hasXattrs(i: number): boolean {
    return this.#words[i * STRIDE + W.xattrs]! !== 0;
  }
  /** Sorted by name. Names are views of `arena`. */
  xattrs(i: number): { name: Uint8Array; value: Uint8Array }[] {
    const start = this.#words[i * STRIDE + W.xattrs]!;
    if (start === 0) return [];
    const view = new DataView(this.#arena.buffer, this.#arena.byteOffset);
    const out: { name: Uint8Array; value: Uint8Array }[] = [];
    let at = start + 4;
    for (let n = view.getUint32(start, true); n > 0; n--) {
      const nameEnd = at + 6 + view.getUint16(at, true);
      const valueEnd = nameEnd + view.getUint32(at + 2, true);
      out.push({ name: this.#arena.subarray(at + 6, nameEnd), value: this.#arena.subarray(nameEnd, valueEnd) });
      at = valueEnd;
    }
    return out;
  }

  /** (file offset, length) pairs of a sparse file; null for one that is not. */
  extents(i: number): Float64Array | null {
    const pair = this.#words[i * STRIDE + W.extents]!;
    if (pair === 0) return null;
    return this.#extents.subarray(pair * 2 + 2, pair * 2 + 2 + this.#extents[pair * 2]! * 2);
  }

  /** Views of what is used of the columns. */
  used(): Pick<EntryTransfer, 'words' | 'arena' | 'extents'> {
    return {
      words: this.#words.subarray(0, this.count * STRIDE),
      arena: this.#arena.subarray(0, this.#arenaUsed),
      extents: this.#extents.subarray(0, this.#extentsUsed),
    };
  }

  /** Gives the columns away: the object must not be used afterwards. Post `message` with `transfer`. */
  toTransfer(): { message: EntryTransfer; transfer: ArrayBuffer[] } {
    const message = {
      count: this.count,
      words: this.#words,
      arena: this.#arena,
      arenaUsed: this.#arenaUsed,
      extents: this.#extents,
      extentsUsed: this.#extentsUsed,
    };
    return { message, transfer: [message.words.buffer, message.arena.buffer, message.extents.buffer] };
  }

  static fromTransfer(message: EntryTransfer): EntryColumns {
    const columns = new EntryColumns();
    columns.count = message.count;
    columns.#words = message.words;
    columns.#floats = new Float64Array(message.words.buffer);
    columns.#arena = message.arena;
    columns.#arenaUsed = message.arenaUsed ?? message.arena.length;
    columns.#extents = message.extents;
    columns.#extentsUsed = message.extentsUsed ?? message.extents.length;
    return columns;
  }
}
