import { createHash } from 'node:crypto';
import type { SpanIndex } from '../bytes/index.js';
import { Cursor } from '../bytes/index.js';
import { NO_STATE } from '../gzip/index.js';
import {
  ByteWriter,
  readCount,
  readDeltas,
  readU32Column,
  sharedFloat64,
  writeDeltas,
  writeU32Column,
} from './encode.js';
import { LAYER_KIND_CODE, MAX_SPAN_OUTPUT, MAX_SPAN_OVERHEAD, MIN_SPAN_BYTES } from './format.js';
import type { BlockColumns, LayerKind, SpanTable } from './types.js';

/** A span table without the places of its checkpoint states in the archive. */
export type SpanColumns = Omit<SpanTable, 'windowPosition' | 'windowLength'>;

const KIND_OF_CODE = new Map<number, LayerKind>(
  (Object.keys(LAYER_KIND_CODE) as LayerKind[]).map((kind) => [LAYER_KIND_CODE[kind], kind]),
);

/** Of a span in a table: two deltas of at least a byte, a crc32 and a sha256. */
const MIN_ROW_BYTES = 2 + 4 + 32;
/** Of a gzip span: the SHA-256 of its checkpoint state beside them. */
const MIN_GZIP_ROW_BYTES = MIN_ROW_BYTES + 32;
/** Of a span of data blocks: two deltas. */
const MIN_BLOCKS_ROW_BYTES = 2;
/** Kind, count and first bit offset. */
const MIN_TABLE_BYTES = 3;

/**
 * The canonical form of a span table: one table has exactly one encoding. kind u8, count, layer offset deltas, first bit
 * offset, bit offset deltas (varints), crc32 column (u32), sha256 column, and for gzip the column of the states' sha256.
 */
export function encodeSpanTable(table: SpanColumns): Uint8Array {
  const { count, layerOffset, bitOffset } = table;
  if (layerOffset.length !== count + 1 || bitOffset.length !== count + 1)
    throw new RangeError('span columns differ in length');
  const sums = table.kind === 'blocks' ? 0 : count;
  if (table.crc32.length !== sums || table.sha256.length !== 32 * sums)
    throw new RangeError('span columns differ in length');
  if (table.stateSha256.length !== (table.kind === 'gzip' ? 32 * count : 0))
    throw new RangeError('span columns differ in length');
  const out = new ByteWriter(64 + count * 80);
  out.u8(LAYER_KIND_CODE[table.kind]);
  out.varint(count);
  writeDeltas(out, layerOffset, 1, layerOffset[0]!);
  writeDeltas(out, bitOffset, 0, 0);
  writeU32Column(out, table.crc32);
  out.bytes(table.sha256);
  out.bytes(table.stateSha256);
  if (table.blocks !== undefined) encodeBlocks(out, table.blocks);
  return out.finish();
}

/** Of a `blocks` layer: count, starts (deltas), lengths (varints). What the index claims of hashes names no bytes. */
function encodeBlocks(out: ByteWriter, { start, length }: BlockColumns): void {
  out.varint(start.length);
  writeDeltas(out, start, 0, 0);
  for (const value of length) out.varint(value);
}

function decodeBlocks(cursor: Cursor): BlockColumns {
  const count = readCount(cursor, 2, 'data blocks');
  const [start, length] = [new Float64Array(count), new Float64Array(count)];
  readDeltas(cursor, start, 0, 0, 1);
  for (let i = 0; i < count; i++) length[i] = cursor.varint();
  return { start, length, hash: new Array<string>(count).fill('') };
}

/**
 * SHA-256 of a table's canonical form, in hex. With the layer's digest it names the layer's bytes: two archives that agree on
 * both get the same bytes for every span, so they may share what is cached of the layer, and its fetches.
 */
export function spanTableDigest(table: SpanColumns): string {
  return encodedTableDigest(encodeSpanTable(table));
}

/** The same of a table in its canonical form. */
export function encodedTableDigest(encoded: Uint8Array): string {
  return createHash('sha256').update(encoded).digest('hex');
}

/** Says what is wrong with a layer's spans, or null: they lie in its blob, and none is too short or too long. */
export function spanFault(table: SpanColumns, blobBytes: number): string | null {
  const { count, layerOffset, bitOffset } = table;
  const end = Math.ceil(bitOffset[count]! / 8);
  if (end > blobBytes) return `spans end at byte ${end}, beyond its ${blobBytes} bytes`;
  const whole = count === 1 && bitOffset[0] === 0 && end === blobBytes;
  for (let i = 0; i < count; i++) {
    const compressed = Math.ceil(bitOffset[i + 1]! / 8) - Math.floor(bitOffset[i]! / 8);
    const output = layerOffset[i + 1]! - layerOffset[i]!;
    if (compressed < MIN_SPAN_BYTES && !whole)
      return `span ${i} has ${compressed} compressed bytes, at least ${MIN_SPAN_BYTES} expected`;
    if (output > MAX_SPAN_OUTPUT) return `span ${i} yields ${output} bytes, at most ${MAX_SPAN_OUTPUT} allowed`;
    const most = 2 * output + MAX_SPAN_OVERHEAD;
    if (compressed > most) return `span ${i} has ${compressed} compressed bytes, at most ${most} allowed`;
  }
  return null;
}

/** Reads one table; leaves the cursor behind it. Offsets come back in shared memory. */
export function decodeSpanTable(cursor: Cursor): SpanColumns {
  const start = cursor.offset;
  const code = cursor.u8();
  const kind = KIND_OF_CODE.get(code);
  if (kind === undefined) return cursor.fail(`unknown layer kind ${code}`, start);
  const leastBytes: Readonly<Partial<Record<LayerKind, number>>> = {
    gzip: MIN_GZIP_ROW_BYTES,
    blocks: MIN_BLOCKS_ROW_BYTES,
  };
  const count = readCount(cursor, leastBytes[kind] ?? MIN_ROW_BYTES, 'spans');
  const layerOffset = sharedFloat64(count + 1);
  readDeltas(cursor, layerOffset, 1, 0, 1);
  const bitOffset = sharedFloat64(count + 1);
  readDeltas(cursor, bitOffset, 0, 0, 0);
  if (kind !== 'gzip' && bitOffset.some((bits) => bits % 8 !== 0)) cursor.fail(`a ${kind} span inside a byte`, start);
  if ((kind === 'tar' || kind === 'blocks') && bitOffset.some((bits, i) => bits / 8 !== layerOffset[i])) {
    cursor.fail('a span of an uncompressed layer whose two offsets differ', start);
  }
  if (kind === 'blocks') {
    const [crc32, sha256] = [new Uint32Array(0), new Uint8Array(0)];
    return { kind, count, layerOffset, bitOffset, crc32, sha256, stateSha256: sha256, blocks: decodeBlocks(cursor) };
  }
  const crc32 = readU32Column(cursor, count);
  const sha256 = new Uint8Array(cursor.bytes(32 * count)) /* a copy: Buffer's slice() is a view */;
  const stateSha256 = new Uint8Array(cursor.bytes(kind === 'gzip' ? 32 * count : 0));
  return { kind, count, layerOffset, bitOffset, crc32, sha256, stateSha256 };
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
  const tables = Array.from({ length: readCount(cursor, MIN_TABLE_BYTES, 'span tables') }, () => {
    const start = cursor.offset;
    const table = decodeSpanTable(cursor);
    return table.kind === 'blocks' ? cursor.fail('a table of data blocks, which only caches hold', start) : table;
  });
  const tableOfLayer = Array.from({ length: readCount(cursor, 1, 'layers') }, () => {
    const start = cursor.offset;
    const index = cursor.varint();
    if (index >= tables.length) cursor.fail(`table ${index} of ${tables.length}`, start);
    return index;
  });
  if (cursor.remaining > 0) cursor.fail(`${cursor.remaining} bytes too many`);
  return { tables, tableOfLayer };
}

/** The window index: per table, the lengths of the stored states (varints). Positions follow from them. */
export function encodeWindowIndex(states: readonly (readonly Uint8Array[])[]): Uint8Array {
  const out = new ByteWriter();
  for (const table of states) for (const state of table) out.varint(state.length);
  return out.finish();
}

/** SHA-256 of a span's raw checkpoint state. A copy: a view in a message to a worker would take the whole table along. */
export function stateDigest(table: SpanColumns, span: SpanIndex): Uint8Array {
  return table.kind === 'gzip' ? table.stateSha256.slice(32 * span, 32 * span + 32) : NO_STATE.sha256;
}

/** Whether its digest is that of no state. Most differ in the first byte. */
function isStateless(table: SpanColumns, span: SpanIndex): boolean {
  const none = NO_STATE.sha256;
  return table.kind !== 'gzip' || none.every((byte, i) => table.stateSha256[32 * span + i] === byte);
}

/** Joins tables and window index into the tables that readers use. `windowsLength` must be the sum of the lengths. */
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
    if (count > cursor.remaining) cursor.fail(`${count} spans need ${count} bytes, ${cursor.remaining} left`);
    const windowPosition = new Float64Array(count);
    const windowLength = new Uint32Array(count);
    for (let i = 0; i < count; i++) {
      const start = cursor.offset;
      const length = cursor.varint();
      if (length > maxState) cursor.fail(`a checkpoint state of ${length} bytes, at most ${maxState} expected`, start);
      if ((length === 0) !== isStateless(table, i))
        cursor.fail(`a checkpoint state of ${length} bytes, but its digest says otherwise`, start);
      windowPosition[i] = position;
      windowLength[i] = length;
      position += length;
    }
    return { ...table, windowPosition, windowLength };
  });
  if (cursor.remaining > 0) cursor.fail(`${cursor.remaining} bytes too many`);
  if (position !== windowsLength) cursor.fail(`windows of ${position} bytes, but the section has ${windowsLength}`, 0);
  return joined;
}
