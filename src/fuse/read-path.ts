import { type ErofsReader, InodeView, mapFileRange, type Placement } from '../erofs/index.js';
import type { SharedLayer, TouchRecord } from '../spans/index.js';

/** Reads bytes of a layer's cache file to `position` of the reply buffer; the count, or −errno. */
export type ReadCacheFile = (fd: number, position: number, length: number, offset: number) => number;

/** Not all bytes are in the span cache. */
export const MISS = -1;

/** A read of more spans than this takes the miss path: at 1 MiB and spans of 64 KiB it cannot happen; tiny shaped spans might. */
const MAX_SPANS = 64;

/** Answers reads from the span cache, allocating nothing. One instance per worker. */
export class ReadPath {
  /** Reads answered, their bytes, the spans they touched, and hits undone because a span changed under the read. */
  hits = 0;
  hitBytes = 0;
  spanHits = 0;
  changed = 0;

  readonly #scratch = new InodeView();
  readonly #generations = new Int32Array(MAX_SPANS);
  #layers: readonly SharedLayer[] = [];
  #position = 0;
  #missed = false;

  constructor(
    private readonly reply: Uint8Array,
    private readonly readCacheFile: ReadCacheFile,
  ) {}

  /** Puts [offset, offset + size) of a file at `position` of the reply buffer; gives the byte count, short at its end, or MISS. */
  read(
    reader: ErofsReader,
    placement: Placement | null,
    layers: readonly SharedLayer[],
    nid: number,
    offset: number,
    size: number,
    position: number,
  ): number {
    this.#layers = layers;
    this.#position = position;
    this.#missed = false;
    mapFileRange(reader, placement, this.#scratch, nid, offset, size, this.#piece);
    if (this.#missed) return MISS;
    const count = this.#position - position;
    this.hits++;
    this.hitBytes += count;
    return count;
  }

  /** One stretch of one layer, or a hole. */
  readonly #piece = (layerIndex: number, layerOffset: number, length: number): void => {
    if (this.#missed) return;
    if (layerIndex < 0) {
      this.reply.fill(0, this.#position, this.#position + length);
      this.#position += length;
      return;
    }
    const layer = this.#layers[layerIndex];
    if (layer?.touch !== undefined) touch(layer.touch, layerOffset, length);
    if (layer === undefined || layer.fd < 0 || !this.#copy(layer, layerOffset, length)) this.#missed = true;
    else this.#position += length;
  };

  /**
   * The generations, the bytes, the generations again: only bytes of spans that were not evicted meanwhile count
   * (docs/architecture.md, "Invariant 9").
   */
  #copy(layer: SharedLayer, layerOffset: number, length: number): boolean {
    const { offsets, generations } = layer;
    const end = layerOffset + length;
    if (end > offsets[offsets.length - 1]!) return false;
    let first = 0;
    let high = offsets.length - 2;
    while (first < high) {
      const middle = (first + high + 1) >>> 1;
      if (offsets[middle]! <= layerOffset) first = middle;
      else high = middle - 1;
    }
    let count = 0;
    for (let span = first; offsets[span]! < end; span++, count++) {
      const generation = Atomics.load(generations, span);
      if ((generation & 1) === 0 || count === MAX_SPANS) return false;
      this.#generations[count] = generation;
    }
    // Fewer bytes than a present span should have, or an error: the I/O thread finds out why.
    if (this.readCacheFile(layer.fd, this.#position, length, layerOffset) !== length) return false;
    const now = Atomics.load(layer.clock, 0);
    for (let i = 0; i < count; i++) {
      if (Atomics.load(generations, first + i) !== this.#generations[i]) {
        this.changed++;
        return false;
      }
      layer.lastUse[first + i] = now;
    }
    this.spanHits += count;
    return true;
  }
}

/** As cache/'s noteTouch, which this thread should not load a cache for: pages in the order of their first touch. */
function touch({ pages, clock }: TouchRecord, offset: number, length: number): void {
  if (clock[1] === 0) return;
  const end = Math.min(pages.length, Math.ceil((offset + length) / TOUCH_PAGE));
  for (let page = Math.floor(offset / TOUCH_PAGE); page < end; page++) {
    if (pages[page] === 0) pages[page] = Atomics.add(clock, 0, 1) + 1;
  }
}

/** cache/'s TOUCH_PAGE. */
const TOUCH_PAGE = 4096;
