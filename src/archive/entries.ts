import { Cursor } from '../bytes/index.js';
import {
  EntryColumns,
  type EntryFields,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
} from '../tar/index.js';
import { ByteWriter, readCount, readVarint } from './encode.js';

/** The entries of a layer's tar, as a section (docs/format.md, "10: entries"). */

const NEGATIVE_TIME = 1;
const XATTRS = 2;
const SPARSE = 4;
/** One varint of each column. */
const MIN_ENTRY_BYTES = 10;
const MAX_U32 = 0xffff_ffff;
const MAX_XATTR_NAME = 0xffff;
const HARD_LINK = 0;
const TYPES: readonly number[] = [HARD_LINK, S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO];
const EMPTY = new Uint8Array(0);

const isFile = (mode: number): boolean => (mode & S_IFMT) === S_IFREG;
const isDevice = (mode: number): boolean => (mode & S_IFMT) === S_IFCHR || (mode & S_IFMT) === S_IFBLK;
const hasLink = (mode: number): boolean => (mode & S_IFMT) === S_IFLNK || (mode & S_IFMT) === HARD_LINK;

export function encodeEntries(entries: EntryColumns): Uint8Array {
  const { count } = entries;
  const out = new ByteWriter(64 + count * 64);
  out.varint(count);
  const column = (value: (i: number) => number): void => {
    for (let i = 0; i < count; i++) out.varint(value(i));
  };
  column(
    (i) =>
      (entries.mtime(i) < 0 ? NEGATIVE_TIME : 0) |
      (entries.hasXattrs(i) ? XATTRS : 0) |
      (entries.extents(i) === null ? 0 : SPARSE),
  );
  column((i) => entries.mode(i));
  column((i) => entries.uid(i));
  column((i) => entries.gid(i));
  column((i) => Math.abs(entries.mtime(i)));
  column((i) => entries.mtimeNsec(i));
  column((i) => entries.size(i));
  column((i) => entries.rdev(i));
  column((i) => entries.pathEnd(i) - entries.pathStart(i));
  column((i) => entries.linkEnd(i) - entries.linkStart(i));
  let last = 0;
  for (let i = 0; i < count; i++) {
    if (!isFile(entries.mode(i))) continue;
    out.varint(entries.dataOffset(i) - last);
    last = entries.dataOffset(i);
  }
  const { arena } = entries;
  for (let i = 0; i < count; i++) out.bytes(arena.subarray(entries.pathStart(i), entries.linkEnd(i)));
  for (let i = 0; i < count; i++) {
    const extents = entries.extents(i);
    if (extents !== null) writeExtents(out, extents);
  }
  for (let i = 0; i < count; i++) if (entries.hasXattrs(i)) writeXattrs(out, entries.xattrs(i));
  return out.finish();
}

function writeExtents(out: ByteWriter, extents: Float64Array): void {
  out.varint(extents.length / 2);
  let end = 0;
  for (let i = 0; i < extents.length; i += 2) {
    out.varint(extents[i]! - end);
    out.varint(extents[i + 1]!);
    end = extents[i]! + extents[i + 1]!;
  }
}

function writeXattrs(out: ByteWriter, xattrs: readonly { name: Uint8Array; value: Uint8Array }[]): void {
  out.varint(xattrs.length);
  for (const { name, value } of xattrs) {
    out.varint(name.length);
    out.varint(value.length);
    out.bytes(name);
    out.bytes(value);
  }
}

/**
 * @param layerSize bytes of the tar: no file's data lies beyond it
 * @throws FormatError naming the entry; ClipError LIMIT for more entries or names than a tar may have
 */
export function decodeEntries(raw: Uint8Array, what: string, layerSize: number): EntryColumns {
  const cursor = new Cursor(raw, what);
  const count = readCount(cursor, MIN_ENTRY_BYTES, 'entries');
  const column = (limit: number): Float64Array => {
    const values = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      const value = readVarint(cursor);
      if (value > limit) cursor.fail(`entry ${i}: ${value}, at most ${limit} expected`);
      values[i] = value;
    }
    return values;
  };
  const flags = column(NEGATIVE_TIME | XATTRS | SPARSE);
  const mode = column(0o177_777);
  const [uid, gid] = [column(MAX_U32), column(MAX_U32)];
  const [seconds, nanoseconds] = [column(Number.MAX_SAFE_INTEGER), column(999_999_999)];
  const [size, rdev] = [column(Number.MAX_SAFE_INTEGER), column(MAX_U32)];
  const [pathLength, linkLength] = [column(raw.length), column(raw.length)];
  const dataOffset = new Float64Array(count);
  let last = 0;
  for (let i = 0; i < count; i++) {
    if (!isFile(mode[i]!)) continue;
    last += readVarint(cursor);
    if (last > layerSize) cursor.fail(`entry ${i}: data at ${last}, beyond the layer's ${layerSize} bytes`);
    dataOffset[i] = last;
  }
  // Names come before extents and xattrs, which belong to entries that are made with them.
  const names = cursor.bytes(sum(pathLength) + sum(linkLength));
  if (names.includes(0)) cursor.fail('a name contains a NUL');
  const extents = readAll(count, flags, SPARSE, () => readExtents(cursor));
  const xattrs = readAll(count, flags, XATTRS, () => readXattrs(cursor));
  if (cursor.remaining > 0) cursor.fail(`${cursor.remaining} bytes too many`);

  const entries = new EntryColumns();
  let at = 0;
  const take = (length: number): Uint8Array => {
    at += length;
    return length === 0 ? EMPTY : names.subarray(at - length, at);
  };
  for (let i = 0; i < count; i++) {
    const entry: EntryFields = {
      mode: mode[i]!,
      uid: uid[i]!,
      gid: gid[i]!,
      mtime: flags[i]! & NEGATIVE_TIME ? -seconds[i]! : seconds[i]!,
      mtimeNsec: nanoseconds[i]!,
      size: size[i]!,
      rdev: rdev[i]!,
      dataOffset: dataOffset[i]!,
      path: take(pathLength[i]!),
      link: take(linkLength[i]!),
      xattrs: xattrs.get(i) ?? null,
      extents: extents.get(i) ?? null,
    };
    const fault = faultOf(entry, layerSize);
    if (fault !== null) cursor.fail(`entry ${i}: ${fault}`);
    entries.add(entry);
  }
  return entries;
}

function sum(values: Float64Array): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

/** What no tar parser would have made, in words; null for a possible entry. */
function faultOf({ mode, size, rdev, link, extents, dataOffset }: EntryFields, layerSize: number): string | null {
  if (!TYPES.includes(mode & S_IFMT)) return `mode ${mode.toString(8)} has no type`;
  if (rdev !== 0 && !isDevice(mode)) return 'a device number without a device';
  if (link.length > 0 && !hasLink(mode)) return 'a link target without a link';
  if (!isFile(mode)) return size > 0 || extents !== null ? 'a size without a file' : null;
  let [end, stored] = [0, 0];
  if (extents === null) stored = size;
  else {
    for (let i = 0; i < extents.length; i += 2) {
      end = extents[i]! + extents[i + 1]!;
      stored += extents[i + 1]!;
    }
  }
  if (end > size) return `an extent ends at ${end}, in a file of ${size} bytes`;
  if (dataOffset + stored > layerSize)
    return `data ends at ${dataOffset + stored}, beyond the layer's ${layerSize} bytes`;
  return null;
}

/** What follows for each entry with a flag, by entry. */
function readAll<T>(count: number, flags: Float64Array, flag: number, read: () => T): Map<number, T> {
  const found = new Map<number, T>();
  for (let i = 0; i < count; i++) if (flags[i]! & flag) found.set(i, read());
  return found;
}

function readExtents(cursor: Cursor): number[] {
  const count = readCount(cursor, 2, 'extents');
  const pairs: number[] = [];
  let end = 0;
  for (let i = 0; i < count; i++) {
    const start = end + readVarint(cursor);
    const length = readVarint(cursor);
    end = start + length;
    if (length === 0 || !Number.isSafeInteger(end)) cursor.fail(`an extent of ${length} bytes at ${start}`);
    pairs.push(start, length);
  }
  return pairs;
}

function readXattrs(cursor: Cursor): Map<string, Uint8Array> {
  const count = readCount(cursor, 2, 'xattrs');
  if (count === 0) cursor.fail('no xattrs where some are announced');
  const xattrs = new Map<string, Uint8Array>();
  for (let i = 0; i < count; i++) {
    const [nameLength, valueLength] = [readVarint(cursor), readVarint(cursor)];
    if (nameLength > MAX_XATTR_NAME) cursor.fail(`an xattr name of ${nameLength} bytes`);
    const name = Buffer.from(cursor.bytes(nameLength)).toString('latin1');
    if (xattrs.has(name)) cursor.fail('an xattr twice');
    xattrs.set(name, cursor.bytes(valueLength));
  }
  return xattrs;
}
