import type { LayerIndex, Nid } from '../bytes/index.js';
import { type ErofsReader, InodeView, mapFileRange, type Placement } from '../erofs/index.js';
import { HitCheck, noteTouch, type SharedLayer } from '../spans/index.js';

/** Reads bytes of a layer's cache file to `position` of the reply buffer; the count, or −errno. */
export type ReadCacheFile = (fd: number, position: number, length: number, offset: number) => number;

/** Not all bytes are in the span cache. */
export const MISS = -1;

/** Answers reads from the span cache, allocating nothing. One instance per worker. */
export class ReadPath {
  /** Reads answered, their bytes, the spans they touched, and hits undone because a span changed under the read. */
  hits = 0;
  hitBytes = 0;
  spanHits = 0;
  changed = 0;

  readonly #scratch = new InodeView();
  readonly #check = new HitCheck();
  #layers: readonly SharedLayer[] = [];
  #position = 0;
  #missed = false;

  constructor(
    private readonly reply: Uint8Array,
    private readonly readCacheFile: ReadCacheFile,
  ) {}

  forget(): void {
    this.#layers = [];
  }

  /** Puts [offset, offset + size) of a file at `position` of the reply buffer; gives the byte count, short at its end, or MISS. */
  read(
    reader: ErofsReader,
    placement: Placement | null,
    layers: readonly SharedLayer[],
    nid: Nid,
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
  readonly #piece = (layerIndex: LayerIndex, layerOffset: number, length: number): void => {
    if (this.#missed) return;
    if (layerIndex < 0) {
      this.reply.fill(0, this.#position, this.#position + length);
      this.#position += length;
      return;
    }
    const layer = this.#layers[layerIndex];
    if (layer?.touch !== undefined) noteTouch(layer.touch, layerOffset, length);
    if (layer === undefined || layer.fd < 0 || !this.#copy(layer, layerOffset, length)) this.#missed = true;
    else this.#position += length;
  };

  #copy(layer: SharedLayer, layerOffset: number, length: number): boolean {
    const check = this.#check;
    if (!check.begin(layer, layerOffset, length)) return false;
    // Fewer bytes than a present span should have, or an error: the I/O thread finds out why.
    if (this.readCacheFile(layer.fd, this.#position, length, layerOffset) !== length) return false;
    if (!check.confirm(layer)) {
      this.changed++;
      return false;
    }
    this.spanHits += check.count;
    return true;
  }
}
