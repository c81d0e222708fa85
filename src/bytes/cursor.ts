import { FormatError } from './errors.js';

/** A bounds-checked little-endian reader. Reading past the end throws a FormatError that names `what` and the offset. */
export class Cursor {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #what: string;
  offset: number;

  constructor(bytes: Uint8Array, what: string, offset = 0) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#what = what;
    this.offset = offset;
  }

  get remaining(): number {
    return this.#bytes.length - this.offset;
  }

  fail(detail: string, offset = this.offset): never {
    throw new FormatError(this.#what, offset, detail);
  }

  #take(length: number): number {
    const at = this.offset;
    if (!(length >= 0) || length > this.#bytes.length - at) {
      this.fail(`${length} bytes expected, ${this.#bytes.length - at} left`);
    }
    this.offset = at + length;
    return at;
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8), true);
  }

  i64(): bigint {
    return this.#view.getBigInt64(this.#take(8), true);
  }

  /** A u64 that must be a safe integer. */
  uint53(): number {
    const value = this.u64();
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) this.fail(`${value} is beyond 2^53`, this.offset - 8);
    return Number(value);
  }

  /** An unsigned LEB128 of at most 53 bits in its shortest form: one value has one encoding, so a digest names a value. */
  varint(): number {
    const bytes = this.#bytes;
    const start = this.offset;
    let at = start;
    // Past the end: undefined, which no comparison holds for.
    let byte = bytes[at++]!;
    let value = byte & 0x7f;
    for (let scale = 0x80; byte >= 0x80; scale *= 0x80) {
      if (scale > 2 ** 49) this.fail('number beyond 2^53', start);
      byte = bytes[at++]!;
      value += (byte & 0x7f) * scale;
      if (value > Number.MAX_SAFE_INTEGER) this.fail('number beyond 2^53', start);
      if (byte === 0) this.fail('number not in its shortest form', start);
    }
    if (at > bytes.length) {
      this.offset = bytes.length;
      this.#take(1);
    }
    this.offset = at;
    return value;
  }

  /** A view of the next `length` bytes, not a copy. */
  bytes(length: number): Uint8Array {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  skip(length: number): void {
    this.#take(length);
  }
}
