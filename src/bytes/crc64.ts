import { readFileSync } from 'node:fs';
import { wasmExports } from './wasm.js';

/** assembly/crc64.ts: its memory, and the function that folds what lies there. */
interface Folder {
  readonly page: Uint8Array;
  readonly view: DataView;
  fold(end: number): number;
}

let made: Folder | undefined;

function folder(): Folder {
  if (made !== undefined) return made;
  const { memory, fold } = wasmExports(readFileSync(new URL('./crc64.wasm', import.meta.url))) as {
    memory: { buffer: ArrayBuffer };
    fold(end: number): number;
  };
  made = { page: new Uint8Array(memory.buffer), view: new DataView(memory.buffer), fold };
  return made;
}

/** Reads the file that long data needs: a package manager may take it away at any later moment. */
export function loadCrc64(): void {
  folder();
}

/** Folding leaves 1 KiB to be summed in any case. */
const LEAST_FOLDED = 4096;

/**
 * CRC-64/GO-ISO: the polynomial x^64 + x^4 + x^3 + x + 1 of ISO 3309, bit-reflected, register and result inverted (Go's hash/crc64).
 *
 * The polynomial is so sparse that no table is needed. In a reflected register bit 63 is x^0, so a multiplication by x is a shift
 * to the right, and x^64 ≡ 1 + x + x^3 + x^4: eight bytes are taken in with four shifted copies of the register, and the up to
 * four bits that leave it on the right come in again on the left in the same way.
 *
 * The register is two 32-bit halves, because a BigInt for every eight bytes is a hundred times slower. Long data is first made short by
 * SIMD, at many times the speed.
 */
export class Crc64 {
  #high = -1;
  #low = -1;

  update(data: Uint8Array): this {
    let rest = data;
    while (rest.length >= LEAST_FOLDED) {
      const { page, view, fold } = folder();
      const part = rest.subarray(0, page.length);
      page.set(part);
      // A register is the same as these bits added to the first bytes.
      view.setInt32(0, view.getInt32(0, true) ^ this.#low, true);
      view.setInt32(4, view.getInt32(4, true) ^ this.#high, true);
      this.#low = 0;
      this.#high = 0;
      this.#sum(page.subarray(fold(part.length), part.length));
      rest = rest.subarray(part.length);
    }
    this.#sum(rest);
    return this;
  }

  #sum(data: Uint8Array): void {
    let high = this.#high;
    let low = this.#low;
    const words = data.length >>> 3;
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    for (let i = 0, at = 0; i < words; i++, at += 8) {
      const l = low ^ view.getInt32(at, true);
      const h = high ^ view.getInt32(at + 4, true);
      // What the shifts by 1, 3 and 4 push out on the right, as the coefficients of x^0 to x^3.
      const out = (l << 31) ^ (l << 29) ^ (l << 28);
      low = l ^ ((l >>> 1) | (h << 31)) ^ ((l >>> 3) | (h << 29)) ^ ((l >>> 4) | (h << 28));
      high = h ^ (h >>> 1) ^ (h >>> 3) ^ (h >>> 4) ^ out ^ (out >>> 1) ^ (out >>> 3) ^ (out >>> 4);
    }
    for (let at = words * 8; at < data.length; at++) {
      // The same for one byte: it leaves on the right, and x^64 times it comes in on the left.
      const v = ((low ^ data[at]!) & 0xff) << 24;
      low = (low >>> 8) | (high << 24);
      // Its eight bits shifted by up to four still lie within the upper half.
      high = (high >>> 8) ^ v ^ (v >>> 1) ^ (v >>> 3) ^ (v >>> 4);
    }
    this.#high = high;
    this.#low = low;
  }

  /** The sum of all that was given, as an unsigned number of 64 bits. */
  digest(): bigint {
    return (BigInt(~this.#high >>> 0) << 32n) | BigInt(~this.#low >>> 0);
  }
}

export function crc64(data: Uint8Array): bigint {
  return new Crc64().update(data).digest();
}

const MASK = (1n << 64n) - 1n;

function times(a: bigint, b: bigint): bigint {
  let product = 0n;
  let factor = b;
  for (let bit = 63n; bit >= 0n; bit--) {
    if ((a >> bit) & 1n) product ^= factor;
    // x^64 is 1 + x + x^3 + x^4: 0xd8… in a reflected register.
    factor = factor & 1n ? (factor >> 1n) ^ 0xd800_0000_0000_0000n : factor >> 1n;
  }
  return product & MASK;
}

/** x^(8 · bytes): the factor of a sum that is followed by this number of bytes. */
function power(bytes: number): bigint {
  let result = 1n << 63n;
  let square = 1n << 55n;
  for (let n = bytes; n > 0; n = Math.floor(n / 2)) {
    if (n % 2 === 1) result = times(result, square);
    square = times(square, square);
  }
  return result;
}

/** Parts of one file are of one length, but for the last: its power is worked out once. */
let lastLength = -1;
let lastPower = 0n;

/** The CRC-64 of A‖B from those of A and B and B's length in bytes. */
export function crc64Combine(crcA: bigint, crcB: bigint, lengthB: number): bigint {
  if (lengthB !== lastLength) {
    lastLength = lengthB;
    lastPower = power(lengthB);
  }
  return times(crcA, lastPower) ^ crcB;
}
