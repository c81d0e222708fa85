import { type SpanColumns, stateDigest } from '../archive/index.js';
import type { SpanIndex } from '../bytes/index.js';
import { lowerBound } from '../bytes/index.js';
import { type BlockCheck, blockCheck } from './block-check.js';

/** The span that holds `offset`. `offsets` are whole numbers, ascending, and offsets[0] ≤ offset. */
export function spanAt(offsets: Float64Array, offset: number): number {
  return Math.min(lowerBound(offsets, offset + 1) - 1, offsets.length - 2);
}

/** Where the spans of one layer lie, in the compressed blob and in the uncompressed layer. */
export class LayerSpans {
  constructor(
    /** "sha256:…" of the blob. */
    readonly digest: string,
    readonly table: SpanColumns,
  ) {}

  get count(): number {
    return this.table.count;
  }

  /** Length of the uncompressed layer. */
  get size(): number {
    return this.table.layerOffset[this.table.count]!;
  }

  /** The span that holds an offset of the uncompressed layer. */
  at(offset: number): number {
    return spanAt(this.table.layerOffset, offset);
  }

  /** Where in the uncompressed layer a span begins. */
  start(span: SpanIndex): number {
    return this.table.layerOffset[span]!;
  }

  /** Uncompressed length of a span. */
  length(span: SpanIndex): number {
    return this.table.layerOffset[span + 1]! - this.table.layerOffset[span]!;
  }

  /** Neighbours share the byte of the blob that holds their boundary: it is the last of the one and the first of the other. */
  byteStart(span: SpanIndex): number {
    return Math.floor(this.table.bitOffset[span]! / 8);
  }

  byteEnd(span: SpanIndex): number {
    return Math.ceil(this.table.bitOffset[span + 1]! / 8);
  }

  /** Bytes of the blob that spans [first, end) cover. */
  compressedBytes(first: number, end: number): number {
    return this.byteEnd(end - 1) - this.byteStart(first);
  }

  /** The bit of its first byte at which a span begins. */
  startBit(span: SpanIndex): number {
    return this.table.bitOffset[span]! % 8;
  }

  /** 0 for a layer of data blocks, which has `blocks` instead. */
  crc32(span: SpanIndex): number {
    return this.table.crc32[span] ?? 0;
  }

  /** A copy, because a view in a message to a worker takes the whole table along. */
  sha256(span: SpanIndex): Uint8Array {
    return this.table.sha256.slice(32 * span, 32 * span + 32);
  }

  /** SHA-256 of a span's raw checkpoint state. A copy, likewise. */
  stateSha256(span: SpanIndex): Uint8Array {
    return stateDigest(this.table, span);
  }

  /** What a span of data blocks is checked by; null for layers of other kinds. */
  blocks(span: SpanIndex): BlockCheck | null {
    return blockCheck(this.table, span);
  }

  /** For errors. */
  name(span: SpanIndex): string {
    return `layer ${this.digest}, span ${span} (bytes ${this.byteStart(span)} to ${this.byteEnd(span)})`;
  }
}
