import type { BlockColumns, SpanTable } from '../archive/index.js';
import { FormatError } from '../bytes/index.js';
import { BLOCK_SUM_SIZE, BLOCK_TYPE_SIZE } from './format.js';

/** A block's content: where it lies in the archive file, and the SHA-256 that the index claims, in hex; empty: none. */
export interface Block {
  readonly start: number;
  readonly length: number;
  readonly hash: string;
}

/** Blocks up to this length are spans as they are: checked whole before any of their bytes is served. Longer ones are cut in pieces. */
export const MAX_WHOLE_BLOCK = 4 * 1024 * 1024;
const PIECE = 1024 * 1024;

export interface BlockCuts {
  /** Neighbouring blocks share a span until it has so many bytes; 0: each has its own. */
  readonly together: number;
}

/** Bytes between blocks that belong to no file (of hard links that the program stored twice) are not fetched with their neighbours. */
const MAX_GAP = 64 * 1024;

/**
 * The spans of a version 1 archive's data, as a layer whose bytes are the archive file's own. `blocks` may be in any order and
 * name the same block twice.
 * @throws FormatError when two blocks overlap
 */
export function blockTable(blocks: readonly Block[], cuts: BlockCuts, what: string): SpanTable {
  const sorted = [...blocks].sort((a, b) => a.start - b.start || a.length - b.length);
  const distinct = sorted.filter(
    (block, i) => i === 0 || block.start !== sorted[i - 1]!.start || block.length !== sorted[i - 1]!.length,
  );
  const bounds = [0];
  let end = 0;
  const cutAt = (offset: number): void => {
    if (offset > bounds.at(-1)!) bounds.push(offset);
  };
  for (const { start, length } of distinct) {
    // The first block may be said to begin right where the one before ends only if its type byte fits between.
    const from = start - BLOCK_TYPE_SIZE;
    const to = start + length + BLOCK_SUM_SIZE;
    if (from < end) throw new FormatError(what, from, `two data blocks overlap, before byte ${end}`);
    if (!Number.isSafeInteger(to)) throw new FormatError(what, from, `a data block of ${length} bytes`);
    if (from - end > MAX_GAP) {
      cutAt(end);
      cutAt(from);
    }
    if (length > MAX_WHOLE_BLOCK) {
      cutAt(from);
      // The last piece holds the checksum: it must not be smaller than that.
      for (let at = from + PIECE; to - at > PIECE / 2; at += PIECE) cutAt(at);
      cutAt(to);
    } else if (to - bounds.at(-1)! > cuts.together) cutAt(from);
    end = to;
  }
  cutAt(end);
  const hash = distinct.map((block) => block.hash);
  const start = Float64Array.from(distinct, (block) => block.start);
  const length = Float64Array.from(distinct, (block) => block.length);
  return tableOf(Float64Array.from(bounds), { start, length, hash });
}

/** The table of spans that begin and end at these offsets. */
export function tableOf(bounds: Float64Array, blocks: BlockColumns): SpanTable {
  const count = bounds.length - 1;
  const layerOffset = new Float64Array(new SharedArrayBuffer(8 * (count + 1)));
  layerOffset.set(bounds);
  return {
    kind: 'blocks',
    count,
    layerOffset,
    bitOffset: layerOffset.map((offset) => offset * 8),
    windowPosition: new Float64Array(count),
    windowLength: new Uint32Array(count),
    crc32: new Uint32Array(0),
    sha256: new Uint8Array(0),
    stateSha256: new Uint8Array(0),
    blocks,
  };
}
