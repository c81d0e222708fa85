import { PF_W, PF_X, type Segment } from './headers.js';

/** Places are told once for each stretch of this length: less than any span that is worth a wait. */
const GRAIN = 64 * 1024;
/** Stretches of one file that are told, 1 GiB of it: an image's author may name any number. */
const MAX_GRAINS = 16 * 1024;

/** Gets an offset in the file, and whether the loader touches it whatever runs then. */
export type Touch = (offset: number, surely: boolean) => void;

/** Addresses as places in the file, each stretch of which is told once. */
export class Places {
  readonly #loaded: readonly Segment[];
  readonly #touch: Touch;
  readonly #told = new Set<number>();
  #last = -1;
  #home: Segment | undefined;

  constructor(loaded: readonly Segment[], touch: Touch) {
    this.#loaded = loaded;
    this.#touch = touch;
  }

  /** Where an address lies in the file; -1 if nowhere. */
  offset(address: number): number {
    if (!holds(this.#home, address)) {
      const home = this.#loaded.find((segment) => holds(segment, address));
      if (home === undefined) return -1;
      this.#home = home;
    }
    return this.#home!.offset + (address - this.#home!.address);
  }

  isCode(address: number): boolean {
    return this.offset(address) >= 0 && (this.#home!.flags & PF_X) !== 0;
  }

  at(address: number, surely = true): void {
    const offset = this.offset(address);
    if (offset >= 0) this.#tell(offset, surely);
  }

  stretch(address: number, length: number): void {
    const offset = this.offset(address);
    for (let at = 0; offset >= 0 && at < length; at += GRAIN) this.#tell(offset + at);
  }

  /** The loader clears the rest of the page in which the data of a segment ends. */
  ends(): void {
    for (const { flags, offset, fileSize, memorySize } of this.#loaded)
      if ((flags & PF_W) !== 0 && fileSize > 0 && memorySize > fileSize) this.#tell(offset + fileSize - 1);
  }

  #tell(offset: number, surely = true): void {
    const grain = Math.floor(offset / GRAIN);
    if (grain === this.#last) return;
    this.#last = grain;
    if (this.#told.has(grain) || this.#told.size >= MAX_GRAINS) return;
    this.#told.add(grain);
    this.#touch(offset, surely);
  }
}

function holds(segment: Segment | undefined, address: number): boolean {
  return segment !== undefined && address >= segment.address && address - segment.address < segment.fileSize;
}
