import { readFileSync } from 'node:fs';

/** The part of the JavaScript API that is used here: neither lib.es2023 nor Node's types declare it. */
declare namespace WebAssembly {
  class Module {
    constructor(bytes: Uint8Array);
  }
  class Instance {
    constructor(module: Module);
    readonly exports: unknown;
  }
}

/** assembly/crc64.ts, and its memory. */
interface Module {
  readonly page: Uint8Array;
  update(end: number, register: bigint): bigint;
}

let made: Module | undefined;

function wasm(): Module {
  if (made !== undefined) return made;
  const module = new WebAssembly.Module(readFileSync(new URL('./crc64.wasm', import.meta.url)));
  const { memory, update } = new WebAssembly.Instance(module).exports as {
    memory: { buffer: ArrayBuffer };
    update: Module['update'];
  };
  made = { page: new Uint8Array(memory.buffer), update };
  return made;
}

const ONES = (1n << 64n) - 1n;

/**
 * CRC-64/GO-ISO: the polynomial x^64 + x^4 + x^3 + x + 1 of ISO 3309, bit-reflected, register and result inverted (Go's hash/crc64).
 * The polynomial is so sparse that no table is needed: the sum is taken by SIMD (assembly/crc64.ts).
 */
export class Crc64 {
  #register = ONES;

  update(data: Uint8Array): this {
    const { page, update } = wasm();
    for (let done = 0; done < data.length; done += page.length) {
      const part = data.subarray(done, done + page.length);
      page.set(part);
      this.#register = update(part.length, this.#register);
    }
    return this;
  }

  /** The sum of all that was given, as an unsigned number of 64 bits. */
  digest(): bigint {
    return BigInt.asUintN(64, this.#register) ^ ONES;
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
