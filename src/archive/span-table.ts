import { Cursor } from '../bytes/index.js';
import {
  ByteWriter,
  readCount,
  readDeltas,
  readU32Column,
  readVarint,
  sharedFloat64,
  writeDeltas,
  writeU32Column,
} from './encode.js';
import { LAYER_KIND_CODE } from './format.js';
import type { LayerKind, SpanTable } from './types.js';

/** What of a span table describes content: everything but where the checkpoint states lie. */
export type SpanColumns = Pick<SpanTable, 'kind' | 'count' | 'layerOffset' | 'bitOffset' | 'crc32' | 'sha256'>;

const KIND_OF_CODE = new Map<number, LayerKind>(
  (Object.keys(LAYER_KIND_CODE) as LayerKind[]).map((kind) => [LAYER_KIND_CODE[kind], kind]),
);

/** Two deltas of at least a byte, a crc32 and a sha256. */
const MIN_SPAN_BYTES = 2 + 4 + 32;
/** Kind, count and first bit offset. */
const MIN_TABLE_BYTES = 3;

/**
 * The canonical form of a span table: one table has exactly one encoding, so its SHA-256 names it (caches are named so).
 * kind u8, count, layer offset deltas, first bit offset, bit offset deltas (varints), crc32 column (u32), sha256 column.
 */
export function encodeSpanTable(table: SpanColumns): Uint8Array {
  const { count, layerOffset, bitOffset } = table;
  if (layerOffset.length !== count + 1 || bitOffset.length !== count + 1)
    throw new RangeError('span columns differ in length');
  if (table.crc32.length !== count || table.sha256.length !== 32 * count)
    throw new RangeError('span columns differ in length');
  const out = new ByteWriter(64 + count * 48);
  out.u8(LAYER_KIND_CODE[table.kind]);
  out.varint(count);
  writeDeltas(out, layerOffset, 1, layerOffset[0]!);
  writeDeltas(out, bitOffset, 0, 0);
  writeU32Column(out, table.crc32);
  out.bytes(table.sha256);
  return out.finish();
}

/** Reads one table; leaves the cursor behind it. Offsets come back in shared memory. */
export function decodeSpanTable(cursor: Cursor): SpanColumns {
  const start = cursor.offset;
  const code = cursor.u8();
  const kind = KIND_OF_CODE.get(code);
  if (kind === undefined) return cursor.fail(`unknown layer kind ${code}`, start);
  const count = readCount(cursor, MIN_SPAN_BYTES, 'spans');
  const layerOffset = sharedFloat64(count + 1);
  readDeltas(cursor, layerOffset, 1, 0, 1);
  const bitOffset = sharedFloat64(count + 1);
  readDeltas(cursor, bitOffset, 0, 0, 0);
  if (kind !== 'gzip' && bitOffset.some((bits) => bits % 8 !== 0)) cursor.fail(`a ${kind} span inside a byte`, start);
  if (kind === 'tar' && bitOffset.some((bits, i) => bits / 8 !== layerOffset[i])) {
    cursor.fail('a span of an uncompressed layer whose two offsets differ', start);
  }
  const crc32 = readU32Column(cursor, count);
  const sha256 = new Uint8Array(cursor.bytes(32 * count)) /* a copy: Buffer's slice() is a view */;
  return { kind, count, layerOffset, bitOffset, crc32, sha256 };
}

/**
 * The spans section: the distinct tables (a layer used twice is stored once), then which of them each layer uses.
 * Table count, tables; layer count, table index per layer (varints).
 */
export function encodeSpans(tables: readonly SpanColumns[], tableOfLayer: readonly number[]): Uint8Array {
  const out = new ByteWriter();
  out.varint(tables.length);
  for (const table of tables) out.bytes(encodeSpanTable(table));
  out.varint(tableOfLayer.length);
  for (const index of tableOfLayer) out.varint(index);
  return out.finish();
}

export function decodeSpans(raw: Uint8Array, what: string): { tables: SpanColumns[]; tableOfLayer: number[] } {
  const cursor = new Cursor(raw, what);
  const tables = Array.from({ length: readCount(cursor, MIN_TABLE_BYTES, 'span tables') }, () =>
    decodeSpanTable(cursor),
  );
  const tableOfLayer = Array.from({ length: readCount(cursor, 1, 'layers') }, () => {
    const start = cursor.offset;
    const index = readVarint(cursor);
    if (index >= tables.length) cursor.fail(`table ${index} of ${tables.length}`, start);
    return index;
  });
  if (cursor.remaining > 0) cursor.fail(`${cursor.remaining} bytes too many`);
  return { tables, tableOfLayer };
}

/** The window index: per table in order, the length column (varints) and the crc32 column. Positions follow from the lengths. */
export function encodeWindowIndex(states: readonly (readonly { length: number; crc32: number }[])[]): Uint8Array {
  const out = new ByteWriter();
  for (const table of states) {
    for (const state of table) out.varint(state.length);
    for (const state of table) out.u32(state.crc32);
  }
  return out.finish();
}

/** Joins tables and window index to what readers use. `windowsLength` is what the lengths must add up to. */
export function decodeWindowIndex(
  raw: Uint8Array,
  what: string,
  tables: readonly SpanColumns[],
  windowsLength: number,
  maxState: number,
): SpanTable[] {
  const cursor = new Cursor(raw, what);
  let position = 0;
  const joined = tables.map((table): SpanTable => {
    const { count } = table;
    if (count * 5 > cursor.remaining) cursor.fail(`${count} spans need ${count * 5} bytes, ${cursor.remaining} left`);
    const windowPosition = new Float64Array(count);
    const windowLength = new Uint32Array(count);
    for (let i = 0; i < count; i++) {
      const start = cursor.offset;
      const length = readVarint(cursor);
      if (length > maxState) cursor.fail(`a checkpoint state of ${length} bytes, at most ${maxState} expected`, start);
      windowPosition[i] = position;
      windowLength[i] = length;
      position += length;
    }
    return { ...table, windowPosition, windowLength, windowCrc32: readU32Column(cursor, count) };
  });
  if (cursor.remaining > 0) cursor.fail(`${cursor.remaining} bytes too many`);
  if (position !== windowsLength) cursor.fail(`windows of ${position} bytes, but the section has ${windowsLength}`, 0);
  return joined;
}
