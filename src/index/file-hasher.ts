import { createHash, type Hash } from 'node:crypto';
import { updateZeros } from '../bytes/index.js';
import type { EntryColumns } from '../tar/index.js';
import type { FileDigests } from './lane-protocol.js';

/**
 * Zeros that are hashed for the holes of all sparse files of a layer. A header of 512 bytes can claim terabytes; files beyond
 * this get no digest (docs/architecture.md, "Invariant 7").
 */
const MAX_HASHED_HOLES = 4 * 1024 * 1024 * 1024;

/** Counts the zeros of holes that may still be hashed. */
export class HoleBudget {
  #left = MAX_HASHED_HOLES;

  take(holes: number): boolean {
    if (holes > this.#left) return false;
    this.#left -= holes;
    return true;
  }
}

/** SHA-256 of the files of a layer that store any data, holes included, while the tar streams by. */
export class FileHasher {
  readonly #entries: EntryColumns;
  #entry = -1;
  #hash: Hash | null = null;
  /** Bytes of the file hashed so far, holes included, and the stored bytes among them. */
  #position = 0;
  #stored = 0;
  #extents: Float64Array | null = null;
  #extent = 0;
  #skipped = 0;
  readonly #budget = new HoleBudget();
  readonly #offsets: number[] = [];
  readonly #digests: Uint8Array[] = [];

  constructor(entries: EntryColumns) {
    this.#entries = entries;
  }

  /** TarSink.data: the next stored bytes of a file. */
  data(entry: number, view: Uint8Array): void {
    if (entry !== this.#entry) this.#start(entry);
    const hash = this.#hash;
    if (hash === null) return;
    const extents = this.#extents;
    if (extents === null) {
      hash.update(view);
      return;
    }
    for (let at = 0; at < view.length; ) {
      const start = extents[2 * this.#extent]!;
      const length = extents[2 * this.#extent + 1]!;
      if (this.#position < start) {
        updateZeros(hash, start - this.#position);
        this.#position = start;
      }
      const n = Math.min(view.length - at, start + length - this.#position);
      hash.update(view.subarray(at, at + n));
      at += n;
      this.#position += n;
      if (this.#position === start + length) this.#extent++;
    }
  }

  #start(entry: number): void {
    this.#end();
    this.#entry = entry;
    this.#extents = this.#entries.extents(entry);
    this.#extent = 0;
    this.#position = 0;
    this.#stored = this.#entries.dataOffset(entry);
    this.#hash = this.#budget.take(this.#holes(entry)) ? createHash('sha256') : null;
    if (this.#hash === null) this.#skipped++;
  }

  #holes(entry: number): number {
    const extents = this.#extents;
    if (extents === null) return 0;
    let stored = 0;
    for (let i = 1; i < extents.length; i += 2) stored += extents[i]!;
    return this.#entries.size(entry) - stored;
  }

  #end(): void {
    const hash = this.#hash;
    if (hash === null) return;
    if (this.#extents !== null) updateZeros(hash, this.#entries.size(this.#entry) - this.#position);
    this.#offsets.push(this.#stored);
    this.#digests.push(hash.digest());
    this.#hash = null;
  }

  finish(): FileDigests {
    this.#end();
    const sha256 = new Uint8Array(32 * this.#digests.length);
    this.#digests.forEach((digest, i) => {
      sha256.set(digest, 32 * i);
    });
    return { dataOffset: Float64Array.from(this.#offsets), sha256, skipped: this.#skipped };
  }
}
