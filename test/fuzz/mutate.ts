import type { Random } from './random.js';
import { MAX_INPUT_BYTES } from './target.js';

/** Values at which sizes and offsets go wrong. */
const INTERESTING = [
  0, 1, 2, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 511, 512, 4095, 4096, 32767, 32768, 65535, 65536,
];
const INTERESTING_LARGE = [
  0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 0x100000000, 0x1fffffffffffff, 0x20000000000000,
];

/** One to a dozen random changes. */
export function mutate(input: Uint8Array, others: readonly Uint8Array[], random: Random): Uint8Array {
  let bytes: Uint8Array = input.slice();
  for (let n = 1 + random.skewed(12); n > 0; n--) bytes = change(bytes, others, random);
  return bytes.length > MAX_INPUT_BYTES ? bytes.slice(0, MAX_INPUT_BYTES) : bytes;
}

function change(bytes: Uint8Array, others: readonly Uint8Array[], random: Random): Uint8Array {
  if (bytes.length === 0) return random.bytes(1 + random.below(16));
  const at = random.below(bytes.length);
  const left = bytes.length - at;
  switch (random.below(11)) {
    case 0:
    case 1:
      bytes[at]! ^= 1 << random.below(8);
      return bytes;
    case 2:
      bytes[at] = random.chance(2) ? random.u32() & 0xff : random.pick(INTERESTING) & 0xff;
      return bytes;
    case 3:
      bytes[at]! += random.chance(2) ? 1 + random.below(8) : 256 - 1 - random.below(8);
      return bytes;
    case 4:
      return number(bytes, at, random);
    case 5: // cut out
      return splice(bytes, at, 1 + random.skewed(left), new Uint8Array(0));
    case 6: // cut off
      return random.chance(4) ? bytes.slice(0, at) : bytes;
    case 7: // put in
      return splice(
        bytes,
        at,
        0,
        random.chance(2) ? random.bytes(1 + random.skewed(64)) : new Uint8Array(1 + random.skewed(600)),
      );
    case 8: {
      // repeat, or copy over
      const from = random.below(bytes.length);
      const piece = bytes.slice(from, from + 1 + random.skewed(bytes.length - from));
      return splice(bytes, at, random.chance(2) ? 0 : Math.min(piece.length, left), piece);
    }
    case 9: {
      // a piece of another input
      const other = random.pick(others);
      if (other.length === 0) return bytes;
      const from = random.below(other.length);
      const piece = other.slice(from, from + 1 + random.skewed(other.length - from));
      return splice(bytes, at, random.chance(2) ? 0 : random.below(left + 1), piece);
    }
    default: {
      const n = Math.min(left, 1 + random.skewed(32));
      bytes.fill(random.pick([0, 0xff, 0x20, 0x30, 0x2f]), at, at + n);
      return bytes;
    }
  }
}

function number(bytes: Uint8Array, at: number, random: Random): Uint8Array {
  const width = random.pick([2, 4, 8]);
  if (at + width > bytes.length) return bytes;
  const value = BigInt(random.chance(3) ? random.pick(INTERESTING_LARGE) : random.pick(INTERESTING));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const little = !random.chance(4);
  if (width === 2) view.setUint16(at, Number(value & 0xffffn), little);
  else if (width === 4) view.setUint32(at, Number(value & 0xffffffffn), little);
  else view.setBigUint64(at, value, little);
  return bytes;
}

function splice(bytes: Uint8Array, at: number, remove: number, insert: Uint8Array): Uint8Array {
  const out = new Uint8Array(bytes.length - remove + insert.length);
  out.set(bytes.subarray(0, at));
  out.set(insert, at);
  out.set(bytes.subarray(at + remove), at + insert.length);
  return out;
}
