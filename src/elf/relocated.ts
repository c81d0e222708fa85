import { viewOf, wordAt } from './headers.js';
import type { Places } from './places.js';

/** An entry of DT_RELA: address, type and symbol, addend. */
export const RELA_BYTES = 24;
/** Functions in the first run of a table: LLVM's libraries have 760 constructors there. */
const MAX_RUN = 16 * 1024;
/** Other tables of functions are shorter, or have addresses of data between them. */
const MIN_RUN = 8;

/**
 * What relocations write, and the constructors that they name: those of DT_INIT_ARRAY, and the functions that the first entries of the table
 * name in a row. There linkers have put `.ctors`, which no entry of the dynamic section names: old code in `_init` goes through it.
 */
export class Relocated {
  readonly #place: Places;
  readonly #array: number;
  readonly #slots: Float64Array;
  readonly #run: number[] = [];
  #runEnd = -1;

  /** @param array  address of DT_INIT_ARRAY, which has `slots` entries */
  constructor(place: Places, array: number, slots: number) {
    this.#place = place;
    this.#array = array;
    this.#slots = new Float64Array(slots);
  }

  /** Whole entries of DT_RELA. */
  take(bytes: Uint8Array): void {
    const view = viewOf(bytes);
    for (let at = 0; at + RELA_BYTES <= bytes.length; at += RELA_BYTES) {
      const address = wordAt(view, at, true);
      this.#place.at(address);
      const slot = (address - this.#array) / 8;
      if (slot >= 0 && slot < this.#slots.length) {
        if (Number.isInteger(slot)) this.#slots[slot] = wordAt(view, at + 16, true);
      } else if (this.#run.length < MAX_RUN) this.#takeRun(address, wordAt(view, at + 16, true));
    }
  }

  #takeRun(address: number, value: number): void {
    if ((this.#runEnd < 0 || this.#runEnd === address) && this.#place.isCode(value)) {
      this.#run.push(value);
      this.#runEnd = address + 8;
    } else this.#runEnd = Number.POSITIVE_INFINITY;
  }

  /** Whole words of DT_RELR (gABI, "Relative Relocation Table"): an address, or 63 bits for the words behind the last one. */
  takeRelative(bytes: Uint8Array): void {
    const view = viewOf(bytes);
    let next = 0;
    for (let at = 0; at + 8 <= bytes.length; at += 8) {
      const [low, high] = [view.getUint32(at, true), view.getUint32(at + 4, true)];
      if ((low & 1) === 0) {
        next = high * 2 ** 32 + low;
        this.#place.at(next);
        next += 8;
        continue;
      }
      // No more than 504 bytes: the first and the last word are within one stretch, or two.
      this.#place.at(next);
      this.#place.at(next + 8 * 62);
      next += 8 * 63;
    }
  }

  get namesConstructors(): boolean {
    return this.#slots.some((address) => address > 0);
  }

  /** The words of DT_INIT_ARRAY as they stand in the file: relocations add to them where none names them. */
  takeArray(bytes: Uint8Array): void {
    const view = viewOf(bytes);
    for (let slot = 0; slot < this.#slots.length && 8 * slot + 8 <= bytes.length; slot++)
      this.#slots[slot] = wordAt(view, 8 * slot, true);
  }

  /** In the order in which they run: `.ctors`, which comes first, from its end. */
  constructors(): number[] {
    const table = this.#run.length < MIN_RUN ? [] : this.#run.toReversed();
    return [...table, ...this.#slots].filter((address) => this.#place.isCode(address));
  }
}
