import { createHash, type Hash } from 'node:crypto';

/**
 * The digests are computed this many bytes behind the end of the stream. A boundary is announced while its bytes are decoded, and a
 * decoder that waits for input holds back at most one deflate block header (286 bytes): far less than this.
 */
const LAG = 64 * 1024;

/**
 * The digests of a blob and of its spans, from one pass over its bytes. Neighbouring spans share the byte that holds their
 * boundary bit (docs/format.md, "3: spans"), and bytes before the first or after the last boundary belong to none.
 *
 * Boundaries must be announced, in order, before more than LAG bytes beyond them have been pushed.
 */
export class SpanHasher {
  readonly #blob = createHash('sha256');
  readonly #digests: Uint8Array[] = [];
  /** Bit offsets of the boundaries ahead. */
  readonly #ahead: number[] = [];
  /** The digest of the current span, and the offset behind the bytes in it. */
  #span: Hash | null = null;
  #position = 0;
  /** Pushed bytes that are not in a span's digest yet. */
  #tail = new Uint8Array(0);

  /** Announces a boundary: the bit at which a span ends and the next one starts. */
  boundary(bits: number): void {
    if (Math.floor(bits / 8) < this.#position) {
      throw new RangeError(`boundary at bit ${bits} announced after byte ${this.#position} was hashed`);
    }
    this.#ahead.push(bits);
  }

  /** Takes the next bytes of the blob. Keeps none, except for a copy of the last few. */
  push(bytes: Uint8Array): void {
    this.#blob.update(bytes);
    if (bytes.length < LAG) {
      const joined = new Uint8Array(this.#tail.length + bytes.length);
      joined.set(this.#tail);
      joined.set(bytes, this.#tail.length);
      const ready = Math.max(0, joined.length - LAG);
      this.#hash(joined.subarray(0, ready));
      this.#tail = joined.slice(ready);
    } else {
      this.#hash(this.#tail);
      this.#hash(bytes.subarray(0, bytes.length - LAG));
      // Not slice(): that of a Buffer is a view, and that of shared memory is shared.
      this.#tail = new Uint8Array(LAG);
      this.#tail.set(bytes.subarray(bytes.length - LAG));
    }
  }

  #hash(bytes: Uint8Array): void {
    const start = this.#position;
    const end = start + bytes.length;
    let from = start;
    while (this.#ahead.length > 0) {
      const bits = this.#ahead[0]!;
      const [first, last] = [Math.floor(bits / 8), Math.ceil(bits / 8)];
      // A boundary inside a byte waits for that byte, which is hashed twice.
      if (last > end) break;
      if (this.#span !== null) {
        if (last > from) this.#span.update(bytes.subarray(from - start, last - start));
        this.#digests.push(this.#span.digest());
      }
      this.#span = createHash('sha256');
      if (first < last) this.#span.update(bytes.subarray(first - start, last - start));
      from = last;
      this.#ahead.shift();
    }
    if (this.#span !== null) this.#span.update(bytes.subarray(from - start));
    this.#position = end;
  }

  /** Ends the last span at its boundary and returns the digests. Throws if a boundary lies beyond the blob. */
  finish(): { blob: Uint8Array; spans: Uint8Array } {
    this.#hash(this.#tail);
    if (this.#ahead.length > 0)
      throw new RangeError(`boundary at bit ${this.#ahead[0]}, but the blob has ${this.#position} bytes`);
    const spans = new Uint8Array(32 * this.#digests.length);
    this.#digests.forEach((digest, i) => {
      spans.set(digest, 32 * i);
    });
    return { blob: this.#blob.digest(), spans };
  }
}
