import { FormatError } from '../../bytes/index.js';

const SAFE = BigInt(Number.MAX_SAFE_INTEGER);
/** Bytes of an unsigned number that a double holds exactly in any case. */
const EXACT_BYTES = 6;
const FLOAT = new DataView(new ArrayBuffer(8));

/** The numbers of a gob stream. Every read is checked against `end`, which is the end of the message that is being read. */
export class GobCursor {
  offset = 0;
  end = 0;

  constructor(
    readonly bytes: Uint8Array,
    readonly what: string,
  ) {}

  fail(detail: string, offset = this.offset): never {
    throw new FormatError(this.what, offset, detail);
  }

  get left(): number {
    return this.end - this.offset;
  }

  /** Below 128 the number itself, else a byte with the negated number of bytes that follow, big-endian. */
  uint(): number | bigint {
    if (this.offset >= this.end) this.fail('a number expected, but the message ends');
    const first = this.bytes[this.offset++]!;
    if (first < 0x80) return first;
    const count = 0x100 - first;
    if (count > 8) this.fail(`a number of ${count} bytes, at most 8 expected`, this.offset - 1);
    if (count > this.end - this.offset) this.fail(`a number of ${count} bytes, but the message ends`);
    if (count <= EXACT_BYTES) {
      let value = 0;
      for (let i = 0; i < count; i++) value = value * 256 + this.bytes[this.offset++]!;
      return value;
    }
    let value = 0n;
    for (let i = 0; i < count; i++) value = (value << 8n) | BigInt(this.bytes[this.offset++]!);
    return value <= SAFE ? Number(value) : value;
  }

  /** An unsigned number that must be a safe integer: a count, a length. */
  size(what: string): number {
    const start = this.offset;
    const value = this.uint();
    return typeof value === 'number' ? value : this.fail(`${what} ${value}`, start);
  }

  /** Bit 0 tells whether the rest is to be complemented. */
  int(): number | bigint {
    const value = this.uint();
    if (typeof value === 'number') return value % 2 === 0 ? value / 2 : -(value - 1) / 2 - 1;
    const signed = value & 1n ? ~(value >> 1n) : value >> 1n;
    return signed >= -SAFE && signed <= SAFE ? Number(signed) : signed;
  }

  /** A double whose bytes were reversed, so that round numbers are short. */
  float(): number {
    FLOAT.setBigUint64(0, BigInt(this.uint()), true);
    return FLOAT.getFloat64(0, false);
  }

  /** A count and so many bytes; a view. */
  run(what: string): Uint8Array {
    const start = this.offset;
    const length = this.size(`length of ${what}`);
    if (length > this.left) this.fail(`${what} of ${length} bytes, but ${this.left} are left`, start);
    this.offset += length;
    return this.bytes.subarray(this.offset - length, this.offset);
  }
}
