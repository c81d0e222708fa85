import { createHash } from 'node:crypto';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { encodeSpanTable, openArchive, writeArchive } from '../../src/archive/index.js';
import { FormatError } from '../../src/bytes/index.js';
import { bytesInput, imageMeta, layerContents, smallArchive } from '../support/archives.js';
import { mutate as mutateBytes } from './mutate.js';
import type { Random } from './random.js';

// docs/format.md, in place: the fuzzer must recompute digests after a change, or it would never get behind them.
const COUNT = 12;
const DIGEST = 16;
const TABLE = 48;
const ENTRY = 96;

export function corpus(): Uint8Array[] {
  const small = smallArchive();
  const many = layerContents(
    'gzip',
    Array.from({ length: 40 }, (_, i) => [2 ** 21 + i, 4_000_001 + i] as const),
  );
  const zstd = layerContents('zstd-stream', [
    [1000, 800],
    [2 ** 40, 8 * 2 ** 35],
  ]);
  return [
    small,
    { ...small, hashes: null, placement: null, profile: null },
    { image: imageMeta([]), tree: new Uint8Array(0), layers: [] },
    { image: imageMeta([many, zstd]), tree: new Uint8Array(5000).fill(7), layers: [many, zstd] },
  ].map((contents) => Buffer.concat(writeArchive(contents)));
}

/** Opens and reads everything. An archive that opens is consistent: it can be written and opened again with the same identity. */
export function execute(input: Uint8Array): string | undefined {
  try {
    const archive = openArchive(bytesInput(input));
    const layers = archive.layers.map(({ table }, layer) => {
      const states = Array.from(
        { length: table.count },
        (_, span) => archive.checkpointState(layer, span) ?? new Uint8Array(0),
      );
      encodeSpanTable(table);
      return { spans: table, states };
    });
    const { image, tree, placement, profile, identity } = archive;
    const hashes = archive.hashes();
    archive.verify();
    const again = openArchive(
      bytesInput(Buffer.concat(writeArchive({ image, tree, layers, hashes, placement, profile }))),
    );
    if (again.layers.length !== archive.layers.length || again.tree.length !== tree.length)
      throw new Error('round trip');
    return `opened ${layers.length} ${placement?.count ?? '-'} ${profile?.span.length ?? '-'} ${again.identity === identity}`;
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    return `${error.what}: ${error.detail.replace(/\d+/g, '#')}`;
  }
}

interface Parts {
  readonly entries: Uint8Array[];
  readonly stored: Uint8Array[];
}

function split(input: Uint8Array): Parts | null {
  if (input.length < TABLE) return null;
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  const count = view.getUint32(COUNT, true);
  if (count > 16 || TABLE + ENTRY * count > input.length) return null;
  const parts: Parts = { entries: [], stored: [] };
  for (let i = 0; i < count; i++) {
    const at = TABLE + ENTRY * i;
    const [offset, length] = [Number(view.getBigUint64(at + 8, true)), Number(view.getBigUint64(at + 16, true))];
    parts.entries.push(input.slice(at, at + ENTRY));
    parts.stored.push(input.slice(offset, offset + length));
  }
  return parts;
}

function seal(input: Uint8Array, { entries, stored }: Parts): Uint8Array {
  let offset = TABLE + ENTRY * entries.length;
  entries.forEach((entry, i) => {
    const view = new DataView(entry.buffer, entry.byteOffset, entry.byteLength);
    view.setBigUint64(8, BigInt(offset), true);
    view.setBigUint64(16, BigInt(stored[i]!.length), true);
    entry.set(createHash('sha256').update(stored[i]!).digest(), 32);
    offset += stored[i]!.length;
  });
  const header = input.slice(0, TABLE);
  const table = Buffer.concat(entries);
  header.set(createHash('sha256').update(header.subarray(0, DIGEST)).update(table).digest(), DIGEST);
  return Buffer.concat([header, table, ...stored]);
}

/** Alters the raw bytes of one section, or its entry, and makes all digests right again. */
export function mutate(input: Uint8Array, random: Random): Uint8Array {
  const parts = split(input);
  if (parts === null || parts.entries.length === 0) return mutateBytes(input, [input], random);
  const i = random.below(parts.entries.length);
  const entry = parts.entries[i]!;
  const view = new DataView(entry.buffer, entry.byteOffset, entry.byteLength);
  if (random.chance(8)) {
    view.setBigUint64(24, BigInt(random.pick([0, 1, 2 ** 31, 2 ** 32, 2 ** 53, random.u32()])), true);
    return seal(input, parts);
  }
  const deflated = view.getUint32(4, true) === 1;
  let raw: Uint8Array;
  try {
    raw = deflated ? inflateRawSync(parts.stored[i]!, { maxOutputLength: 1 << 20 }) : parts.stored[i]!;
  } catch {
    return mutateBytes(input, [input], random);
  }
  const changed = mutateBytes(raw, [raw, ...parts.stored], random);
  parts.stored[i] = deflated ? deflateRawSync(changed) : changed;
  view.setBigUint64(24, BigInt(changed.length), true);
  entry.set(createHash('sha256').update(changed).digest(), 64);
  return seal(input, parts);
}
