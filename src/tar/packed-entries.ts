import { Cursor } from '../bytes/index.js';
import { EntryColumns, F, STRIDE, W } from './columns.js';
import {
  BLOCK,
  ENTRIES_MAX,
  NAMES_MAX,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  SPARSE_SEGMENTS_MAX,
} from './format.js';

/*
 * A layer's entries as bytes (docs/format.md, "10: entries"): columns of fixed width, which deflate well and are read at the speed of
 * memory. Hundreds of thousands of entries are read before anything else of an archive can be put together.
 */

/** In this order, each as a column of u32. */
const COLUMN = {
  mode: 0,
  uid: 1,
  gid: 2,
  nsec: 3,
  rdev: 4,
  pathLength: 5,
  linkLength: 6,
  xattrBytes: 7,
  extents: 8,
  sizeLow: 9,
  sizeHigh: 10,
  timeLow: 11,
  timeHigh: 12,
  gapLow: 13,
  gapHigh: 14,
} as const;
const COLUMNS = 15;
const HEADER_BYTES = 12;
const TWO_32 = 2 ** 32;
const HARD_LINK = 0;
const HIGH_MAX = 0x1f_ffff;

/** What never is 0 or beyond its bounds: position 0 of names and pair 0 of extents mean "none". */
const FIRST_NAME = 1;
const FIRST_EXTENT = 2;

function blocksEnd(offset: number): number {
  return Math.ceil(offset / BLOCK) * BLOCK;
}

/** Bytes of a file's data in the tar. */
function storedBytes(size: number, extents: Float64Array | null): number {
  if (extents === null) return size;
  let stored = 0;
  for (let i = 1; i < extents.length; i += 2) stored += extents[i]!;
  return stored;
}

// A small loop for each: V8 takes longer to compile one that does all than to run it.

/** A field of all records as a column. */
function packWords(words: Uint32Array, field: number, columns: Uint32Array, column: number): void {
  const count = columns.length / COLUMNS;
  const to = column * count;
  for (let i = 0; i < count; i++) columns[to + i] = words[i * STRIDE + field]!;
}

/** A field of float64 as two columns, the low 32 bits and then the high ones. */
function packFloats(floats: Float64Array, field: number, columns: Uint32Array, column: number): void {
  const count = columns.length / COLUMNS;
  const [low, high] = [column * count, (column + 1) * count];
  for (let i = 0; i < count; i++) {
    const value = floats[i * (STRIDE / 2) + field]!;
    columns[low + i] = value;
    columns[high + i] = Math.floor(value / TWO_32);
  }
}

/** What lies between the records: xattrs behind the names, extents, and the places of data. */
function packGaps(entries: EntryColumns, arenaEnd: number, columns: Uint32Array): void {
  const { count } = entries;
  let end = 0;
  for (let i = 0; i < count; i++) {
    const next = i + 1 < count ? entries.pathStart(i + 1) : arenaEnd;
    columns[COLUMN.xattrBytes * count + i] = next - entries.linkEnd(i);
    const pairs = entries.extents(i);
    columns[COLUMN.extents * count + i] = pairs === null ? 0 : 1 + pairs.length / 2;
    if ((entries.mode(i) & S_IFMT) !== S_IFREG) continue;
    const gap = entries.dataOffset(i) - end;
    columns[COLUMN.gapLow * count + i] = gap;
    columns[COLUMN.gapHigh * count + i] = Math.floor(gap / TWO_32);
    end = blocksEnd(entries.dataOffset(i) + storedBytes(entries.size(i), pairs));
  }
}

export function packEntries(entries: EntryColumns): Uint8Array {
  const { count } = entries;
  const { arena, extents, words } = entries.used();
  const columns = new Uint32Array(COLUMNS * count);
  const floats = new Float64Array(words.buffer, words.byteOffset, words.length / 2);
  packWords(words, W.mode, columns, COLUMN.mode);
  packWords(words, W.uid, columns, COLUMN.uid);
  packWords(words, W.gid, columns, COLUMN.gid);
  packWords(words, W.nsec, columns, COLUMN.nsec);
  packWords(words, W.rdev, columns, COLUMN.rdev);
  packWords(words, W.pathLength, columns, COLUMN.pathLength);
  packWords(words, W.linkLength, columns, COLUMN.linkLength);
  packFloats(floats, F.size, columns, COLUMN.sizeLow);
  packFloats(floats, F.mtime, columns, COLUMN.timeLow);
  packGaps(entries, arena.length, columns);
  const lengths = Uint32Array.of(count, arena.length - FIRST_NAME, extents.length - FIRST_EXTENT);
  return Buffer.concat([
    new Uint8Array(lengths.buffer),
    new Uint8Array(columns.buffer),
    new Uint8Array(extents.buffer, extents.byteOffset + 8 * FIRST_EXTENT, 8 * (extents.length - FIRST_EXTENT)),
    arena.subarray(FIRST_NAME),
  ]);
}

/** A copy that begins where typed arrays may. */
function aligned(bytes: Uint8Array, before = 0): ArrayBuffer {
  const copy = new Uint8Array(before + bytes.length);
  copy.set(bytes, before);
  return copy.buffer;
}

/**
 * @param layerSize bytes of the tar: no file's data lies beyond it
 * @throws FormatError naming the entry
 */
export function unpackEntries(raw: Uint8Array, what: string, layerSize: number): EntryColumns {
  const cursor = new Cursor(raw, what);
  const [count, nameBytes, extentNumbers] = [cursor.u32(), cursor.u32(), cursor.u32()];
  if (count > ENTRIES_MAX || nameBytes >= NAMES_MAX)
    cursor.fail(`${count} entries with ${nameBytes} bytes of names`, 0);
  const expected = HEADER_BYTES + 4 * COLUMNS * count + 8 * extentNumbers + nameBytes;
  if (raw.length !== expected) cursor.fail(`${raw.length} bytes, ${expected} expected`, 0);
  const columns = new Uint32Array(aligned(cursor.bytes(4 * COLUMNS * count)));
  const extents = new Float64Array(aligned(cursor.bytes(8 * extentNumbers), 8 * FIRST_EXTENT));
  const arena = new Uint8Array(aligned(cursor.bytes(nameBytes), FIRST_NAME));

  const words = new Uint32Array(STRIDE * count);
  const floats = new Float64Array(words.buffer);
  const fail = (i: number, detail: string): never => cursor.fail(`entry ${i}: ${detail}`, HEADER_BYTES + 4 * i);
  let [name, extent, end] = [FIRST_NAME, FIRST_EXTENT, 0];
  let nextZero = arena.indexOf(0, FIRST_NAME);
  for (let i = 0; i < count; i++) {
    const w = i * STRIDE;
    const f = i * (STRIDE / 2);
    const mode = columns[COLUMN.mode * count + i]!;
    const rdev = columns[COLUMN.rdev * count + i]!;
    const nsec = columns[COLUMN.nsec * count + i]!;
    const pathLength = columns[COLUMN.pathLength * count + i]!;
    const linkLength = columns[COLUMN.linkLength * count + i]!;
    const xattrBytes = columns[COLUMN.xattrBytes * count + i]!;
    const pairs = columns[COLUMN.extents * count + i]!;
    const sizeHigh = columns[COLUMN.sizeHigh * count + i]!;
    const size = sizeHigh * TWO_32 + columns[COLUMN.sizeLow * count + i]!;
    const timeHigh = columns[COLUMN.timeHigh * count + i]! | 0;
    const gapHigh = columns[COLUMN.gapHigh * count + i]!;
    const gap = gapHigh * TWO_32 + columns[COLUMN.gapLow * count + i]!;
    const type = mode & S_IFMT;
    const isFile = type === S_IFREG;

    if (mode > 0o177_777 || !isType(type)) fail(i, `mode ${mode.toString(8)}`);
    if (nsec > 999_999_999) fail(i, `${nsec} nanoseconds`);
    if (rdev !== 0 && type !== S_IFCHR && type !== S_IFBLK) fail(i, 'a device number without a device');
    if (linkLength > 0 && type !== S_IFLNK && type !== HARD_LINK) fail(i, 'a link target without a link');
    if (!isFile && (size > 0 || pairs > 0 || gap > 0)) fail(i, 'data without a file');
    if (sizeHigh > HIGH_MAX || gapHigh > HIGH_MAX || timeHigh > HIGH_MAX || timeHigh < -HIGH_MAX - 1)
      fail(i, 'a number beyond 2^53');

    const linkEnd = name + pathLength + linkLength;
    const nameEnd = linkEnd + xattrBytes;
    if (nameEnd > arena.length) fail(i, `names end at ${nameEnd}, beyond ${arena.length}`);
    if (nextZero >= 0 && nextZero < linkEnd) fail(i, 'a name contains a NUL');
    words[w + W.path] = name;
    if (xattrBytes > 0) {
      const fault = xattrFault(arena, linkEnd, nameEnd);
      if (fault !== null) fail(i, fault);
      words[w + W.xattrs] = linkEnd;
      if (nextZero < nameEnd) nextZero = arena.indexOf(0, nameEnd);
    }
    name = nameEnd;

    let stored = size;
    if (pairs > 0) {
      const next = extent + 2 * pairs;
      if (next > extents.length || pairs - 1 > SPARSE_SEGMENTS_MAX) fail(i, `${pairs} pairs of extents`);
      stored = storedExtents(extents, extent, pairs, size);
      if (stored < 0) fail(i, `impossible extents in a file of ${size} bytes`);
      words[w + W.extents] = extent / 2;
      extent = next;
    }
    if (isFile) {
      const dataOffset = end + gap;
      if (dataOffset + stored > layerSize) fail(i, `data beyond the layer's ${layerSize} bytes`);
      floats[f + F.dataOffset] = dataOffset;
      end = blocksEnd(dataOffset + stored);
    }
    floats[f + F.size] = size;
    floats[f + F.mtime] = timeHigh * TWO_32 + columns[COLUMN.timeLow * count + i]!;
    words[w + W.nsec] = nsec;
    words[w + W.mode] = mode;
    words[w + W.uid] = columns[COLUMN.uid * count + i]!;
    words[w + W.gid] = columns[COLUMN.gid * count + i]!;
    words[w + W.rdev] = rdev;
    words[w + W.pathLength] = pathLength;
    words[w + W.linkLength] = linkLength;
  }
  if (name !== arena.length || extent !== extents.length) cursor.fail('names or extents that belong to no entry');
  return EntryColumns.fromTransfer({ count, words, arena, extents });
}

function isType(type: number): boolean {
  return (
    type === S_IFREG ||
    type === S_IFDIR ||
    type === S_IFLNK ||
    type === HARD_LINK ||
    type === S_IFCHR ||
    type === S_IFBLK ||
    type === S_IFIFO
  );
}

/** What is wrong with the xattrs between two positions, or null: a number of them, and for each lengths, name and value, by name. */
function xattrFault(arena: Uint8Array, start: number, end: number): string | null {
  const view = new DataView(arena.buffer, arena.byteOffset, arena.byteLength);
  if (end - start < 4) return 'xattrs are cut short';
  let at = start + 4;
  let before: Uint8Array | null = null;
  for (let left = view.getUint32(start, true); left > 0; left--) {
    if (end - at < 6) return 'xattrs are cut short';
    const nameEnd = at + 6 + view.getUint16(at, true);
    const valueEnd = nameEnd + view.getUint32(at + 2, true);
    if (valueEnd > end) return 'xattrs are cut short';
    const name = arena.subarray(at + 6, nameEnd);
    if (before !== null && Buffer.compare(before, name) >= 0) return 'xattrs out of order';
    before = name;
    at = valueEnd;
  }
  return at === end && before !== null ? null : 'bytes behind the xattrs';
}

/** Bytes of the extents at `at`: their number, then offsets and lengths. -1 if they are not those of a sparse file. */
function storedExtents(extents: Float64Array, at: number, pairs: number, size: number): number {
  if (extents[at] !== pairs - 1 || extents[at + 1] !== 0) return -1;
  let [end, stored] = [0, 0];
  for (let i = at + 2; i < at + 2 * pairs; i += 2) {
    const [offset, length] = [extents[i]!, extents[i + 1]!];
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < end || length <= 0) return -1;
    end = offset + length;
    stored += length;
  }
  return end <= size ? stored : -1;
}
