import { FormatError } from '../bytes/index.js';
import { FIELD, SPARSE_ENTRY, SPARSE_SEGMENTS_MAX } from './format.js';
import { parseCount, parseField, parseNumeric } from './number.js';
import { latin1, type PaxRecords } from './pax.js';

/** Appends old GNU sparse entries ("offset, length" in 12 bytes each) until an empty one or `count` are read. */
export function readOldGnuSparse(block: Uint8Array, start: number, count: number, at: number, into: number[]): void {
  for (let i = 0; i < count; i++) {
    const entry = start + i * SPARSE_ENTRY;
    if (block[entry] === 0) return;
    if (into.length >= SPARSE_SEGMENTS_MAX * 2)
      throw new FormatError('tar sparse map', at, `more than ${SPARSE_SEGMENTS_MAX} segments`);
    into.push(
      parseNumeric(block, entry, 12, 'sparse offset', at),
      parseNumeric(block, entry + 12, 12, 'sparse length', at),
    );
  }
}

export function oldGnuRealSize(block: Uint8Array, at: number): number {
  return parseField(block, FIELD.gnuRealSize, 'real size', at);
}

export interface PaxSparse {
  name: Uint8Array | undefined;
  realSize: number;
  /** The map, or null if it lies in front of the data (version 1.0). */
  map: number[] | null;
}

/** GNU tar manual, "Storing Sparse Files": versions 0.0, 0.1 and 1.0. Null when no record is about sparseness. */
export function readPaxSparse(
  get: (key: string) => Uint8Array | undefined,
  local: PaxRecords,
  at: number,
): PaxSparse | null {
  const text = (key: string): string | undefined => {
    const value = get(key);
    return value === undefined ? undefined : latin1(value);
  };
  const major = text('GNU.sparse.major');
  const minor = text('GNU.sparse.minor');
  const listed = text('GNU.sparse.map');
  // 0.0 and 0.1 did not write their version.
  const version =
    major !== undefined || minor !== undefined
      ? `${major}.${minor}`
      : listed !== undefined || local.sparse.length > 0
        ? '0'
        : '';
  if (version === '') return null;
  if (version !== '0' && version !== '0.0' && version !== '0.1' && version !== '1.0') {
    throw new FormatError('tar sparse map', at, `GNU.sparse version ${version}, known are 0.0, 0.1 and 1.0`);
  }
  const size = text('GNU.sparse.realsize') ?? text('GNU.sparse.size');
  const realSize = size === undefined ? null : parseCount(size);
  if (realSize === null) throw new FormatError('tar sparse map', at, 'GNU.sparse.realsize is missing or not a number');
  let map: number[] | null = null;
  if (version !== '1.0') map = listed === undefined ? local.sparse : parseList(listed.split(','), at);
  return { name: get('GNU.sparse.name'), realSize, map };
}

function parseList(parts: readonly string[], at: number): number[] {
  if (parts.length % 2 !== 0) throw new FormatError('tar sparse map', at, 'GNU.sparse.map has an odd number of values');
  return parts.map((part) => {
    const value = parseCount(part);
    if (value === null)
      throw new FormatError(
        'tar sparse map',
        at,
        `GNU.sparse.map has ${JSON.stringify(part.slice(0, 40))}, expected a number`,
      );
    return value;
  });
}

/**
 * Collects a version 1.0 map: "COUNT\n" then "OFFSET\nLENGTH\n" COUNT times, padded to a block, in front of the data.
 * Takes whole blocks.
 */
export class SparseMapReader {
  readonly map: number[] = [];
  #expected = -1;
  #value = 0;
  #digits = 0;

  /** True when this block held the map's end. */
  push(block: Uint8Array, at: number): boolean {
    for (let i = 0; i < block.length; i++) {
      const byte = block[i]!;
      if (byte === 0x0a && this.#digits > 0) {
        if (this.#expected < 0) {
          this.#expected = this.#value * 2;
          if (this.#value > SPARSE_SEGMENTS_MAX)
            throw new FormatError('tar sparse map', at, `${this.#value} segments, at most ${SPARSE_SEGMENTS_MAX}`);
        } else this.map.push(this.#value);
        this.#value = 0;
        this.#digits = 0;
        if (this.map.length === this.#expected) return true;
      } else {
        const digit = byte - 0x30;
        if (digit < 0 || digit > 9) throw new FormatError('tar sparse map', at + i, 'not a number ended by a newline');
        this.#value = this.#value * 10 + digit;
        this.#digits++;
        if (!Number.isSafeInteger(this.#value)) throw new FormatError('tar sparse map', at + i, 'a number beyond 2^53');
      }
    }
    return false;
  }
}

/**
 * Checks a map and drops its empty segments (writers end the map with one at the file's size).
 * Segments must ascend, not overlap, stay inside the file, and add up to the bytes that are stored.
 */
export function checkSparseMap(pairs: readonly number[], size: number, stored: number, at: number): number[] {
  const out: number[] = [];
  let end = 0;
  let total = 0;
  for (let i = 0; i + 1 < pairs.length; i += 2) {
    const offset = pairs[i]!;
    const length = pairs[i + 1]!;
    if (!(offset >= end) || !(length >= 0) || offset + length > size || !Number.isSafeInteger(offset + length)) {
      throw new FormatError(
        'tar sparse map',
        at,
        `segment ${i / 2} is ${offset}+${length} after ${end} in a file of ${size} bytes`,
      );
    }
    end = offset + length;
    total += length;
    if (length > 0) out.push(offset, length);
  }
  if (total !== stored)
    throw new FormatError('tar sparse map', at, `segments add up to ${total} bytes, ${stored} are stored`);
  return out;
}
