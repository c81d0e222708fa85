import type { Nid } from '../../bytes/index.js';
import { TOUCH_PAGE, type TouchRecord } from '../../spans/index.js';
import type { FollowedImage } from './followed-image.js';

/** Files whose place is looked up at a time, so that this never keeps the I/O thread for long: an image has some 10,000 with references. */
const PLACES_AT_A_TIME = 512;

/**
 * Files with references that readers have opened without waiting: another fetch has brought their beginning. FUSE workers answer such
 * reads by themselves and only note the pages.
 */
export class OpenedFiles {
  readonly #image: FollowedImage;
  readonly #touch: readonly TouchRecord[];
  /** By position among the references: the layer (−1: none, or visited), and the pages of it that tell: the first, and the last behind it. */
  readonly #layer: Int32Array;
  readonly #page: Uint32Array;
  readonly #more: Uint8Array;
  #placed = 0;
  #clock = 0;

  constructor(image: FollowedImage, touch: readonly TouchRecord[]) {
    this.#image = image;
    this.#touch = touch;
    this.#layer = new Int32Array(image.references.count).fill(-1);
    this.#page = new Uint32Array(image.references.count);
    this.#more = new Uint8Array(image.references.count);
  }

  /**
   * Visits the files that were opened, each once. True if something was read since it was called last.
   * @throws FormatError
   */
  look(visit: (file: number) => void): boolean {
    const placing = this.#place();
    const clock = this.#touch[0]?.clock[0] ?? 0;
    const moved = clock !== this.#clock;
    if (!moved && !placing) return false;
    this.#clock = clock;
    for (let file = 0; file < this.#placed; file++) {
      const layer = this.#layer[file]!;
      if (layer < 0) continue;
      const { pages } = this.#touch[layer]!;
      const page = this.#page[file]!;
      if (pages[page] === 0 || pages[page + this.#more[file]!] === 0) continue;
      this.#layer[file] = -1;
      visit(file);
    }
    return moved;
  }

  #place(): boolean {
    const { nid } = this.#image.references;
    const end = Math.min(nid.length, this.#placed + PLACES_AT_A_TIME);
    const placing = this.#placed < end;
    for (; this.#placed < end; this.#placed++) this.#placeOf(this.#placed, nid[this.#placed]!);
    return placing;
  }

  #placeOf(file: number, nid: Nid): void {
    this.#image.map(nid, 0, 2 * TOUCH_PAGE, (layer, offset, length) => {
      if (layer < 0 || this.#layer[file]! >= 0) return;
      // A page that is all the file's own; of a small file both that it shares with others, which are hardly both read for the others. One in a
      // single page cannot be told from its neighbours.
      const [first, last] = [Math.floor(offset / TOUCH_PAGE), Math.floor((offset + length - 1) / TOUCH_PAGE)];
      const own = Math.ceil(offset / TOUCH_PAGE);
      const whole = (own + 1) * TOUCH_PAGE <= offset + length;
      if (!whole && first === last) return;
      this.#layer[file] = layer;
      this.#page[file] = whole ? own : first;
      this.#more[file] = whole ? 0 : last - first;
    });
  }
}
