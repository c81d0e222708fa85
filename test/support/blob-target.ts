import type { BlobTarget } from '../../src/oci/index.js';

/** Lends one small piece of memory after the other, makes every second one wait, and keeps the received bytes. */
export class SlottedTarget implements BlobTarget {
  readonly #slotBytes: number;
  readonly #chunks: Buffer[] = [];
  #slot: Uint8Array;
  #fill = 0;
  #waiting = false;
  #slots = 0;

  constructor(slotBytes: number) {
    this.#slotBytes = slotBytes;
    this.#slot = new Uint8Array(new SharedArrayBuffer(slotBytes));
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }

  room(): Uint8Array {
    return this.#slot.subarray(this.#fill);
  }

  filled(bytes: number): Promise<void> | null {
    if (this.#waiting) throw new Error('filled while it was to wait');
    if (bytes === 0 || bytes > this.room().length) throw new Error(`${bytes} of ${this.room().length} bytes filled`);
    this.#chunks.push(Buffer.from(this.room().slice(0, bytes)));
    this.#fill += bytes;
    if (this.#fill < this.#slotBytes) return null;
    this.#slot = new Uint8Array(new SharedArrayBuffer(this.#slotBytes));
    this.#fill = 0;
    if (++this.#slots % 2 === 0) return null;
    this.#waiting = true;
    return new Promise((resolve) => {
      setTimeout(() => {
        this.#waiting = false;
        resolve();
      }, 2);
    });
  }
}
