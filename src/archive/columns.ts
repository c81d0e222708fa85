import { Cursor } from '../bytes/index.js';
import type { Placement } from '../erofs/index.js';
import { ByteWriter, readCount, readDeltas, sharedFloat64, sharedUint32, writeDeltas } from './encode.js';
import { PROFILE_SOURCE_CODE } from './format.js';
import type { FileHashes, Profile } from './types.js';

/** The hashes section: count, nid deltas (varints), then 32 bytes a file. */
export function encodeHashes(hashes: FileHashes): Uint8Array {
  const out = new ByteWriter(64 + hashes.count * 35);
  out.varint(hashes.count);
  writeDeltas(out, hashes.nid, 0, 0);
  out.bytes(hashes.sha256);
  return out.finish();
}

export function decodeHashes(raw: Uint8Array, what: string): FileHashes {
  const cursor = new Cursor(raw, what);
  const count = readCount(cursor, 33, 'file hashes');
  const nid = new Float64Array(count);
  readDeltas(cursor, nid, 0, 0, 1);
  const sha256 = cursor.bytes(32 * count);
  if (cursor.remaining > 0) cursor.fail(`${cursor.remaining} bytes too many`);
  return { count, nid, sha256 };
}

/** The placement section: count, then the columns nid (deltas), file offset, length, layer, layer offset: varints. */
export function encodePlacement(placement: Placement): Uint8Array {
  const out = new ByteWriter(64 + placement.count * 16);
  out.varint(placement.count);
  writeDeltas(out, placement.nid, 0, 0);
  for (const column of [placement.fileOffset, placement.length, placement.layer, placement.layerOffset]) {
    for (const value of column) out.varint(value);
  }
  return out.finish();
}

/** `layerSizes` are the layers' uncompressed sizes: an extent outside its layer is refused. Columns are in shared memory. */
export function decodePlacement(raw: Uint8Array, what: string, layerSizes: readonly number[]): Placement {
  const cursor = new Cursor(raw, what);
  const count = readCount(cursor, 5, 'extents');
  const nid = sharedFloat64(count);
  readDeltas(cursor, nid, 0, 0, 0);
  const [fileOffset, length, layerOffset] = [sharedFloat64(count), sharedFloat64(count), sharedFloat64(count)];
  const layer = sharedUint32(count);
  for (const column of [fileOffset, length, layer, layerOffset]) {
    for (let i = 0; i < count; i++) {
      const value = cursor.varint();
      if (column === layer && value >= layerSizes.length) cursor.fail(`layer ${value} of ${layerSizes.length}`);
      column[i] = value;
    }
  }
  for (let i = 0; i < count; i++) {
    const end = layerOffset[i]! + length[i]!;
    if (end > layerSizes[layer[i]!]!) cursor.fail(`extent ${i} ends at ${end}, beyond its layer`);
    const follows = i > 0 && nid[i] === nid[i - 1];
    if (length[i] === 0 || !Number.isSafeInteger(fileOffset[i]! + length[i]!))
      cursor.fail(`extent ${i} has no possible length`);
    if (follows && fileOffset[i]! < fileOffset[i - 1]! + length[i - 1]!)
      cursor.fail(`extent ${i} overlaps the one before`);
  }
  if (cursor.remaining > 0) cursor.fail(`${cursor.remaining} bytes too many`);
  return { count, nid, fileOffset, length, layer, layerOffset };
}

/** The profile section: source u8, count, layer column, span column (varints). */
export function encodeProfile(profile: Profile): Uint8Array {
  const out = new ByteWriter(64 + profile.layer.length * 4);
  out.u8(PROFILE_SOURCE_CODE[profile.source]);
  out.varint(profile.layer.length);
  for (const column of [profile.layer, profile.span]) for (const value of column) out.varint(value);
  return out.finish();
}

/** `spanCounts` are the layers' numbers of spans: a profile that names others is refused. */
export function decodeProfile(raw: Uint8Array, what: string, spanCounts: readonly number[]): Profile {
  const cursor = new Cursor(raw, what);
  const code = cursor.u8();
  const source = (Object.keys(PROFILE_SOURCE_CODE) as Profile['source'][]).find((s) => PROFILE_SOURCE_CODE[s] === code);
  if (source === undefined) return cursor.fail(`unknown profile source ${code}`, 0);
  const count = readCount(cursor, 2, 'profile entries');
  // Two megabytes of archive have room for thirty million, and the server goes through them at each mount.
  const spans = spanCounts.reduce((sum, of) => sum + of, 0);
  if (count > spans) cursor.fail(`${count} profile entries, but only ${spans} spans`);
  const [layer, span] = [new Uint32Array(count), new Uint32Array(count)];
  for (let i = 0; i < count; i++) {
    const value = cursor.varint();
    if (value >= spanCounts.length) cursor.fail(`layer ${value} of ${spanCounts.length}`);
    layer[i] = value;
  }
  for (let i = 0; i < count; i++) {
    const value = cursor.varint();
    if (value >= spanCounts[layer[i]!]!) cursor.fail(`span ${value} of ${spanCounts[layer[i]!]}`);
    span[i] = value;
  }
  if (cursor.remaining > 0) cursor.fail(`${cursor.remaining} bytes too many`);
  return { source, layer, span };
}
