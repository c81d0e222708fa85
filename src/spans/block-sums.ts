import type { SpanColumns } from '../archive/index.js';
import type { SpanIndex } from '../bytes/index.js';
import { crc64Combine } from '../bytes/index.js';
import { blocksOf, type PartSum } from './block-check.js';

interface Parts {
  readonly first: number;
  readonly sums: (PartSum | undefined)[];
  missing: number;
  verdict: 'open' | 'right' | 'wrong';
}

/**
 * Blocks that are longer than a span are checked when all of their parts have been seen, in whatever order they came: the CRC of
 * the whole follows from those of the parts (docs/legacy.md, "What is checked").
 */
export class BlockSums {
  readonly #table: SpanColumns;
  readonly #blocks = new Map<number, Parts>();

  constructor(table: SpanColumns) {
    this.#table = table;
  }

  /** The number of the long block that the span is part of. */
  blockOf(span: SpanIndex): number {
    return blocksOf(this.#table, span).first;
  }

  /** The span's block was found to be damaged: its bytes are not to be served. */
  isWrong(span: SpanIndex): boolean {
    return this.#blocks.size > 0 && this.#blocks.get(this.blockOf(span))?.verdict === 'wrong';
  }

  /** Takes note of a part. @returns the spans of its block if they were found to be wrong just now */
  add(span: SpanIndex, part: PartSum): { readonly first: number; readonly end: number } | null {
    const parts = this.#partsOf(span);
    const at = span - parts.first;
    if (parts.verdict !== 'open' || parts.sums[at] !== undefined) return null;
    parts.sums[at] = part;
    if (--parts.missing > 0) return null;
    let sum = 0n;
    for (const one of parts.sums) sum = crc64Combine(sum, one!.sum, one!.length);
    parts.verdict = sum === parts.sums.at(-1)!.stored ? 'right' : 'wrong';
    return parts.verdict === 'right' ? null : { first: parts.first, end: parts.first + parts.sums.length };
  }

  /** The spans that hold a block, of which `span` is one. */
  spansOf(block: number, span: SpanIndex): { readonly first: number; readonly end: number } {
    let [first, end] = [span, span + 1];
    while (first > 0 && this.#touches(first - 1, block)) first--;
    while (end < this.#table.count && this.#touches(end, block)) end++;
    return { first, end };
  }

  /** Whether the span's block is known to be whole. */
  isRight(span: SpanIndex): boolean {
    return this.#blocks.get(this.blockOf(span))?.verdict === 'right';
  }

  #partsOf(span: SpanIndex): Parts {
    const block = this.blockOf(span);
    const known = this.#blocks.get(block);
    if (known !== undefined) return known;
    const { first, end } = this.spansOf(block, span);
    const made: Parts = { first, sums: new Array(end - first).fill(undefined), missing: end - first, verdict: 'open' };
    this.#blocks.set(block, made);
    return made;
  }

  #touches(span: SpanIndex, block: number): boolean {
    const { first, end } = blocksOf(this.#table, span);
    return first <= block && block < end;
  }
}
