import type { SpanColumns } from '../archive/index.js';
import type { SpanIndex } from '../bytes/index.js';
import { hide, isPresent, type SharedLayer, spanAt } from '../spans/index.js';
import { DiskBackoff } from './disk-backoff.js';

/** The contents of a span's place in the file, as the I/O thread knows them. */
export const Occupied = {
  /** A hole. */
  no: 0,
  /** Bytes of an earlier run, or of a fill that did not end: to be checked against the crc32 before use. */
  unverified: 1,
  /** Filled by this run, or checked. The generation alone says whether it may be read. */
  yes: 2,
  /** As `yes`, and all zeros: a hole that may be read, and takes no room. */
  zeros: 3,
} as const;

/** Freed blocks are whole blocks; every Linux file system we know has 4096 or a divisor of it. */
const BLOCK = 4096;

/**
 * One open layer file. All methods belong to the I/O thread; other threads see only `shared`. This order keeps reads whole
 * (docs/architecture.md, "Invariant 9"): a span's generation becomes even, then its hole is punched, then it may be filled again,
 * and only the filler makes it odd. `hold` keeps a span from eviction while it is being filled or copied out.
 */
export class CachedLayer {
  readonly occupied: Uint8Array;
  /** Sum of the lengths of all spans that take room. */
  bytes = 0;
  mounts = 0;
  /** `shared.fd` is the layer's file, opened for writing. False: the disk refuses, and at most spans of an earlier run can be read. */
  attached = false;
  /** Opening the file. */
  readonly opening = new DiskBackoff();
  /** Spans that the disk may have lost or has only in part, and that were in use when this became known: to be dropped. */
  readonly doubtful = new Set<number>();
  /** False once evicted bytes could not be freed: they may lie anywhere in the file. */
  holesAreHoles = true;
  /**
   * Its file is sealed, or about to be (sealed-file.ts): nothing of it is written or evicted. A span of it that turns out to be damaged is
   * served from memory.
   */
  sealed = false;
  /** Its sealed file has bytes that are not the layer's. */
  damaged = false;
  /** zstd-stream: the spans of the layer come and go together. */
  readonly whole: boolean;
  readonly #holds = new Map<number, number>();

  constructor(
    /** `<layer digest>.<table digest>` */
    readonly key: string,
    /** Of its file, for people. */
    readonly path: string,
    readonly shared: SharedLayer,
    readonly table: SpanColumns,
    /**
     * The file is the archive's own: its spans are read and checked where they lie, and never written, evicted or counted as
     * cached.
     */
    readonly borrowed = false,
  ) {
    this.whole = table.kind === 'zstd-stream';
    this.occupied = new Uint8Array(this.count).fill(borrowed ? Occupied.unverified : Occupied.no);
  }

  get count(): number {
    return this.shared.offsets.length - 1;
  }

  length(span: SpanIndex): number {
    return this.shared.offsets[span + 1]! - this.shared.offsets[span]!;
  }

  present(span: SpanIndex): boolean {
    return isPresent(this.shared, span);
  }

  /** True if bytes of an earlier run may be there, to be checked before fetching. */
  unverified(span: SpanIndex): boolean {
    return this.occupied[span] === Occupied.unverified && !this.present(span);
  }

  occupy(span: SpanIndex, state: 0 | 1 | 2 | 3): void {
    this.bytes -= this.#room(span);
    this.occupied[span] = state;
    this.bytes += this.#room(span);
  }

  /** Bytes that a span counts in the file. */
  #room(span: SpanIndex): number {
    return this.takesRoom(span) && !this.borrowed ? this.length(span) : 0;
  }

  takesRoom(span: SpanIndex): boolean {
    const state = this.occupied[span];
    return state === Occupied.unverified || state === Occupied.yes;
  }

  /** True when zeros need not be written to the span's own blocks. */
  isHole(span: SpanIndex): boolean {
    return this.occupied[span] === Occupied.no && this.holesAreHoles;
  }

  /** Marks every span that [start, end) of the file touches. */
  occupyRange(start: number, end: number): void {
    for (let span = spanAt(this.shared.offsets, start); span < this.count && this.shared.offsets[span]! < end; span++) {
      this.occupy(span, Occupied.unverified);
    }
  }

  hold(span: SpanIndex): void {
    this.#holds.set(span, (this.#holds.get(span) ?? 0) + 1);
  }

  unhold(span: SpanIndex): void {
    const holds = this.#holds.get(span)!;
    if (holds === 1) this.#holds.delete(span);
    else this.#holds.set(span, holds - 1);
  }

  evictable(span: SpanIndex): boolean {
    return !this.borrowed && !this.sealed && this.occupied[span] !== Occupied.no && !this.#holds.has(span);
  }

  /** All of it is in the file, checked by this process. */
  get complete(): boolean {
    for (let span = 0; span < this.count; span++) if (!this.present(span)) return false;
    return this.attached && this.count > 0;
  }

  /** All of it is in the file. What an earlier run has left may have to be checked yet. */
  get filled(): boolean {
    for (let span = 0; span < this.count; span++) if (this.occupied[span] === Occupied.no) return false;
    return true;
  }

  /** No span of it is held, so it may be evicted as a whole. */
  get idle(): boolean {
    return this.#holds.size === 0;
  }

  /** Readers of the span go the miss path from now on; its bytes stay where they are. */
  hide(span: SpanIndex): void {
    hide(this.shared, span);
  }

  /** Hides a span that the disk may have lost, or has not taken, until it is dropped. */
  doubt(span: SpanIndex): void {
    this.hide(span);
    this.doubtful.add(span);
  }

  /** Hides a span that could not be read back, and forgets its bytes. */
  forget(span: SpanIndex): void {
    this.damaged ||= this.sealed;
    this.hide(span);
    this.occupy(span, Occupied.unverified);
  }

  /** Takes spans [first, end) out of the file's account and says which bytes may be freed. All must be evictable. */
  vacate(first: number, end: number): { start: number; end: number } {
    for (let span = first; span < end; span++) {
      if (this.occupied[span] === Occupied.no) continue;
      this.hide(span);
      this.occupy(span, Occupied.no);
    }
    return this.#freeable(this.shared.offsets[first]!, this.shared.offsets[end]!);
  }

  /**
   * The whole blocks that hold nothing but vacated spans. A block shared with an occupied neighbour stays until that goes
   * too: punching part of it would free nothing and dirty the page.
   */
  #freeable(start: number, end: number): { start: number; end: number } {
    const { offsets } = this.shared;
    const low = Math.floor(start / BLOCK) * BLOCK;
    const high = Math.min(Math.ceil(end / BLOCK) * BLOCK, Math.ceil(offsets[this.count]! / BLOCK) * BLOCK);
    return {
      start: start > low && this.#anyOccupied(low, start) ? low + BLOCK : low,
      end: end < high && this.#anyOccupied(end, high) ? high - BLOCK : high,
    };
  }

  #anyOccupied(start: number, end: number): boolean {
    const { offsets } = this.shared;
    for (let span = spanAt(offsets, start); span < this.count && offsets[span]! < end; span++) {
      if (offsets[span + 1]! > start && this.occupied[span] !== Occupied.no) return true;
    }
    return false;
  }
}
