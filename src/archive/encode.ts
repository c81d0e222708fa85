import type { Cursor } from '../bytes/index.js';

/** Of 53 bits. */
const MAX_VARINT_BYTES = 8;

/** A growing little-endian buffer. */
export class ByteWriter {
  #bytes: Uint8Array;
  #view: DataView;
  #length = 0;

  constructor(capacity = 1024) {
    this.#bytes = new Uint8Array(capacity);
    this.#view = new DataView(this.#bytes.buffer);
  }

  get length(): number {
    return this.#length;
  }

  #grow(extra: number): number {
    const at = this.#length;
    const need = at + extra;
    if (need > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(need, this.#bytes.length * 2));
      larger.set(this.#bytes.subarray(0, at));
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    this.#length = need;
    return at;
  }

  u8(value: number): void {
    const at = this.#grow(1); // before #bytes is used, because it may be replaced
    this.#bytes[at] = value;
  }

  u16(value: number): void {
    const at = this.#grow(2);
    this.#view.setUint16(at, value, true);
  }

  u32(value: number): void {
    const at = this.#grow(4);
    this.#view.setUint32(at, value, true);
  }

  u64(value: number): void {
    const at = this.#grow(8);
    this.#view.setBigUint64(at, BigInt(value), true);
  }

  bytes(value: Uint8Array): void {
    const at = this.#grow(value.length);
    this.#bytes.set(value, at);
  }

  /** Unsigned LEB128, least significant group first, of a safe non-negative integer. */
  varint(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${value} is no unsigned safe integer`);
    let at = this.#grow(MAX_VARINT_BYTES);
    const bytes = this.#bytes;
    let rest = value;
    while (rest >= 0x80) {
      bytes[at++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    bytes[at++] = rest;
    this.#length = at;
  }

  /** The written bytes: a view that later writes may detach. */
  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }
}

/** A count of items that take at least `minimumBytes` each. A count beyond the input is refused before memory is allocated. */
export function readCount(cursor: Cursor, minimumBytes: number, of: string): number {
  const start = cursor.offset;
  const count = cursor.varint();
  if (count * minimumBytes > cursor.remaining) {
    cursor.fail(`${count} ${of} claimed, but only ${cursor.remaining} bytes left`, start);
  }
  return count;
}

export function writeDeltas(out: ByteWriter, values: ArrayLike<number>, from: number, previous: number): void {
  let last = previous;
  for (let i = from; i < values.length; i++) {
    const value = values[i]!;
    out.varint(value - last);
    last = value;
  }
}

/** The counterpart of writeDeltas: fills values[from…], each at least `minimumStep` above the one before. */
export function readDeltas(
  cursor: Cursor,
  values: Float64Array,
  from: number,
  previous: number,
  minimumStep: number,
): void {
  let last = previous;
  for (let i = from; i < values.length; i++) {
    const start = cursor.offset;
    const step = cursor.varint();
    if (step < minimumStep) cursor.fail(`step ${step}, at least ${minimumStep} expected`, start);
    last += step;
    if (!Number.isSafeInteger(last)) cursor.fail('offset beyond 2^53', start);
    values[i] = last;
  }
}

export function writeU32Column(out: ByteWriter, values: Uint32Array): void {
  const bytes = new Uint8Array(4 * values.length);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of values.entries()) view.setUint32(4 * i, value, true);
  out.bytes(bytes);
}

export function readU32Column(cursor: Cursor, count: number): Uint32Array {
  const bytes = cursor.bytes(4 * count);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const values = new Uint32Array(count);
  for (let i = 0; i < count; i++) values[i] = view.getUint32(4 * i, true);
  return values;
}

/** A column that other threads read too. */
export function sharedFloat64(length: number): Float64Array {
  return new Float64Array(new SharedArrayBuffer(8 * length));
}

export function sharedUint32(length: number): Uint32Array {
  return new Uint32Array(new SharedArrayBuffer(4 * length));
}
