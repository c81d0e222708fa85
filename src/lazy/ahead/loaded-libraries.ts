import type { LayerIndex, Nid, SpanIndex } from '../../bytes/index.js';
import { type FilePart, loadTouches } from '../../elf/index.js';
import type { FollowedImage } from './followed-image.js';

/** Programs and libraries that are gone through at a time. Importing torch loads some 20 that are large enough. */
const MAX_LOADING = 64;
/** Bytes of tables and code that are gone through in one turn of the I/O thread, 2 ms for each MiB. */
const TURN_BYTES = 1024 * 1024;
/** What a part counts at the least: it is mapped, looked up and copied. */
const MIN_PART_BYTES = 16 * 1024;

const NOTHING = new Uint8Array(0);

/** Gets a span, and whether the loader touches it whatever runs then. */
type Visit = (layer: LayerIndex, span: SpanIndex, surely: boolean) => void;

/** A fault waits for what Linux reads around it, 128 KiB (mm/filemap.c, do_sync_mmap_readahead). */
const READ_AROUND = 64 * 1024;

interface Loading {
  readonly nid: Nid;
  readonly steps: Generator<FilePart, void, Uint8Array>;
  /** Null: not begun. */
  wanted: FilePart | null;
}

/**
 * Large programs and libraries that readers have opened: what loading touches of them, by their own tables, which are read when
 * they have come for the loader's sake. Nothing is fetched here.
 */
export class LoadedLibraries {
  readonly #image: FollowedImage;
  readonly #visit: Visit;
  readonly #loading: Loading[] = [];
  /** Of the part that is gone through. */
  #bytes: Uint8Array = NOTHING;

  /** @param visit  gets what will be touched, in that order, some of it more than once */
  constructor(image: FollowedImage, visit: Visit) {
    this.#image = image;
    this.#visit = visit;
  }

  get waiting(): boolean {
    return this.#loading.length > 0;
  }

  opened(nid: Nid): void {
    if (this.#loading.length >= MAX_LOADING) this.#loading.shift();
    const steps = loadTouches((offset, surely) => {
      const from = Math.max(0, offset - READ_AROUND);
      this.#touched(nid, { offset: from, length: offset + READ_AROUND - from }, surely);
    });
    this.#loading.push({ nid, steps, wanted: null });
  }

  #touched(nid: Nid, { offset, length }: FilePart, surely: boolean): void {
    this.#image.map(nid, offset, length, (layer, layerOffset, bytes) => {
      if (layer < 0) return;
      const { spans } = this.#image.layers[layer]!.layer;
      const last = spans.at(layerOffset + bytes - 1);
      for (let span = spans.at(layerOffset); span <= last; span++) this.#visit(layer, span, surely);
    });
  }

  /** Goes on where the next part of a file has come. @throws FormatError */
  advance(): void {
    let left = TURN_BYTES;
    for (let i = 0; i < this.#loading.length && left > 0; ) {
      const loading = this.#loading[i]!;
      let ended = false;
      for (let part = this.#part(loading); part !== null && !ended; part = left > 0 ? this.#part(loading) : null) {
        left -= Math.max(MIN_PART_BYTES, part.length);
        const step = loading.steps.next(part);
        ended = step.done === true;
        if (step.done) break;
        loading.wanted = step.value;
        this.#touched(loading.nid, step.value, true);
      }
      if (ended) this.#loading.splice(i, 1);
      else i++;
    }
    if (!this.waiting) this.#bytes = NOTHING;
  }

  clear(): void {
    this.#loading.length = 0;
    this.#bytes = NOTHING;
  }

  /** The part that is wanted next; null while it is not all there, which is looked at often. */
  #part({ nid, wanted }: Loading): Uint8Array | null {
    if (wanted === null) return NOTHING;
    const { layers } = this.#image;
    let [total, all] = [0, true];
    this.#image.map(nid, wanted.offset, wanted.length, (layer, layerOffset, length) => {
      total += length;
      all &&= layer < 0 || layers[layer]!.layer.cachedAll(layerOffset, length);
    });
    if (!all) return null;
    if (this.#bytes.length < total) this.#bytes = new Uint8Array(Math.max(total, TURN_BYTES));
    const bytes = this.#bytes.subarray(0, total).fill(0);
    let at = 0;
    this.#image.map(nid, wanted.offset, wanted.length, (layer, layerOffset, length) => {
      const part = bytes.subarray(at, at + length);
      all &&= layer < 0 || layers[layer]!.layer.peek(layerOffset, part);
      at += length;
    });
    return all ? bytes : null;
  }
}
