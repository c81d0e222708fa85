import { Cursor } from '../bytes/index.js';
import { ByteWriter, readCount, readDeltas, writeDeltas } from './encode.js';
import type { References } from './types.js';

/** Pages of a hot range are of this size, whatever the machine's. */
export const REFERENCE_PAGE = 4096;
/** Of a large program's segments with code or constants: so many of their first bytes are a hot range, and their last page the next one. */
export const SEGMENT_START = 64 * 1024;

/**
 * The references section, all in varints: the files by nid, the number of files that each leads to, these files (as differences of
 * their positions in the list), the number of each file's ranges, and the ranges in pages.
 */
export function encodeReferences(references: References): Uint8Array {
  const { count, nid, firstTarget, target, firstRange, range } = references;
  const out = new ByteWriter(64 + 4 * count + 2 * target.length);
  out.varint(count);
  writeDeltas(out, nid, 0, 0);
  for (let i = 0; i < count; i++) out.varint(firstTarget[i + 1]! - firstTarget[i]!);
  for (let i = 0; i < count; i++) {
    let last = i;
    for (let at = firstTarget[i]!; at < firstTarget[i + 1]!; at++) {
      const step = target[at]! - last;
      out.varint(step < 0 ? -2 * step - 1 : 2 * step);
      last = target[at]!;
    }
  }
  for (let i = 0; i < count; i++) out.varint((firstRange[i + 1]! - firstRange[i]!) / 2);
  for (const value of range) out.varint(value);
  return out.finish();
}

/** Counts as the positions at which each file's part begins. */
function readPositions(cursor: Cursor, count: number, each: number, what: string): Uint32Array {
  const first = new Uint32Array(count + 1);
  let sum = 0;
  for (let i = 0; i < count; i++) {
    sum += each * cursor.varint();
    // Each takes at least one more byte.
    if (sum > cursor.remaining) cursor.fail(`more ${what} than bytes left`);
    first[i + 1] = sum;
  }
  return first;
}

/** @param files at most so many may lead to others */
export function decodeReferences(raw: Uint8Array, what: string, files: number): References {
  const cursor = new Cursor(raw, what);
  const count = readCount(cursor, 3, 'files with references');
  if (count > files) cursor.fail(`${count} files with references, but only room for ${files} in the tree`);
  const nid = new Float64Array(count);
  readDeltas(cursor, nid, 0, 0, 1);
  const firstTarget = readPositions(cursor, count, 1, 'references');
  const target = new Uint32Array(firstTarget[count]!);
  for (let i = 0; i < count; i++) {
    let last = i;
    for (let at = firstTarget[i]!; at < firstTarget[i + 1]!; at++) {
      const step = cursor.varint();
      last += step % 2 === 1 ? -(step + 1) / 2 : step / 2;
      if (last < 0 || last >= count) cursor.fail(`reference to file ${last} of ${count}`);
      target[at] = last;
    }
  }
  const firstRange = readPositions(cursor, count, 2, 'ranges');
  const range = new Uint32Array(firstRange[count]!);
  for (let i = 0; i < range.length; i++) {
    const value = cursor.varint();
    if (value > 0xffff_ffff) cursor.fail(`page ${value}`);
    range[i] = value;
  }
  if (cursor.remaining > 0) cursor.fail(`${cursor.remaining} bytes too many`);
  return { count, nid, firstTarget, target, firstRange, range };
}
