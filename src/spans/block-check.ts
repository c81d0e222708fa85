import type { SpanColumns } from '../archive/index.js';
import type { SpanIndex } from '../bytes/index.js';
import { Crc64, crc64, lowerBound } from '../bytes/index.js';

/** Bytes of the checksum behind a block's content. */
const SUM_SIZE = 8;

/** What a span of a `blocks` layer is checked by; offsets count from its start. Plain data: it crosses postMessage. */
export interface BlockCheck {
  /** Content start and length of each block that lies wholly in the span. */
  readonly whole: Float64Array;
  /** Of a block that is longer than a span: the content's bytes [from, to) that are in this one. */
  readonly part: {
    readonly from: number;
    readonly to: number;
    /** Whether the content ends here, and its checksum follows. */
    readonly last: boolean;
  } | null;
}

/** What is known of a part of a block once it is read. */
export interface PartSum {
  /** CRC-64 of the content's bytes in this part, and how many they are. */
  readonly sum: bigint;
  readonly length: number;
  /** The block's checksum, which lies in its last part. */
  readonly stored: bigint | null;
}

/** Blocks [first, end) that the span touches. */
export function blocksOf(table: SpanColumns, span: SpanIndex): { first: number; end: number } {
  const { start, length } = table.blocks!;
  const [from, to] = [table.layerOffset[span]!, table.layerOffset[span + 1]!];
  let first = lowerBound(start, from);
  // The block before may reach in, if only with its checksum.
  if (first > 0 && start[first - 1]! + length[first - 1]! + SUM_SIZE > from) first--;
  return { first, end: lowerBound(start, to) };
}

/** How a span of a `blocks` layer is checked; null for layers of other kinds. */
export function blockCheck(table: SpanColumns, span: SpanIndex): BlockCheck | null {
  if (table.blocks === undefined) return null;
  const { start, length } = table.blocks;
  const [from, to] = [table.layerOffset[span]!, table.layerOffset[span + 1]!];
  const { first, end } = blocksOf(table, span);
  const whole: number[] = [];
  for (let block = first; block < end; block++) {
    const contentEnd = start[block]! + length[block]!;
    if (start[block]! >= from && contentEnd + SUM_SIZE <= to) {
      whole.push(start[block]! - from, length[block]!);
      continue;
    }
    const last = contentEnd + SUM_SIZE <= to;
    const part = { from: Math.max(0, start[block]! - from), to: Math.min(contentEnd, to) - from, last };
    return { whole: Float64Array.from(whole), part };
  }
  return { whole: Float64Array.from(whole), part: null };
}

function storedSum(bytes: Uint8Array, at: number): bigint {
  return new DataView(bytes.buffer, bytes.byteOffset + at, SUM_SIZE).getBigUint64(0, false);
}

/**
 * Checks the blocks that lie wholly in a span.
 * @returns the fault of its bytes. Never a checksum: both are made of data that the archive's author may not be allowed to read
 */
export function checkBlocks(bytes: Uint8Array, { whole }: BlockCheck): string | null {
  for (let i = 0; i < whole.length; i += 2) {
    const [start, length] = [whole[i]!, whole[i + 1]!];
    if (crc64(bytes.subarray(start, start + length)) !== storedSum(bytes, start + length))
      return `the CRC-64 of the block at byte ${start} of it differs`;
  }
  return null;
}

/** What a span's bytes tell of the longer block that they are a part of. */
export function partOf(bytes: Uint8Array, { part }: BlockCheck): PartSum | undefined {
  if (part === null) return undefined;
  const { from, to, last } = part;
  const sum = new Crc64().update(bytes.subarray(from, to)).digest();
  return { sum, length: to - from, stored: last ? storedSum(bytes, to) : null };
}
