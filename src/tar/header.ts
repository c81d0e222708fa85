import { describeContent, FormatError } from '../bytes/index.js';
import { BLOCK, FIELD } from './format.js';
import { parseField, parseNumeric, parseText } from './number.js';

/** The dialects differ in the meaning of the block's second half. */
export type Dialect = 'v7' | 'ustar' | 'gnu' | 'star' | 'old-star';

const USTAR = Buffer.from('ustar', 'latin1');
const STAR_TRAILER = Buffer.from('tar\0', 'latin1');

/** The sum of all 512 bytes, four at a time: two sums of 16 bits, each below 128 · 2 · 255 = 65,280. */
export function sumBytes(words: Uint32Array): number {
  let pairs = 0;
  for (let i = 0; i < BLOCK / 4; i++) {
    const word = words[i]!;
    pairs = (pairs + (word & 0xff00ff) + ((word >>> 8) & 0xff00ff)) | 0;
  }
  return (pairs & 0xffff) + (pairs >>> 16);
}

/**
 * POSIX sums the bytes as unsigned; old Sun and HP tars summed them as signed chars. The field itself counts as spaces.
 * @param sum  of all bytes, the field among them
 * @throws FormatError when neither sum is the one that the block states
 */
export function checkChecksum(block: Uint8Array, sum: number, at: number): void {
  const [from, length] = FIELD.checksum;
  let unsigned = sum + 8 * 0x20;
  for (let i = from; i < from + length; i++) unsigned -= block[i]!;
  let stated = -1;
  try {
    stated = parseNumeric(block, from, length, 'checksum', at);
  } catch {
    // A field that is no number is as wrong as another number.
  }
  if (stated !== unsigned && stated !== signedSum(block)) {
    const foreign = at === 0 && dialectOf(block) === 'v7'; // a damaged header still has its magic
    const detail = foreign ? `: not a tar archive, but ${describeContent(block)}` : '';
    throw new FormatError('tar header', at, `bad checksum${detail}`);
  }
}

function signedSum(block: Uint8Array): number {
  const [from, length] = FIELD.checksum;
  let sum = length * 0x20;
  for (let i = 0; i < BLOCK; i++) if (i < from || i >= from + length) sum += (block[i]! << 24) >> 24;
  return sum;
}

export function dialectOf(block: Uint8Array): Dialect {
  const trailer = equals(block, FIELD.starTrailer[0], STAR_TRAILER);
  if (!equals(block, FIELD.magic[0], USTAR)) return trailer ? 'old-star' : 'v7';
  if (block[FIELD.magic[0] + 5] === 0x20) return 'gnu';
  return trailer ? 'star' : 'ustar';
}

function equals(block: Uint8Array, at: number, expected: Uint8Array): boolean {
  for (let i = 0; i < expected.length; i++) if (block[at + i] !== expected[i]) return false;
  return true;
}

/** prefix + '/' + name where the dialect has a prefix. */
export function headerPath(block: Uint8Array, dialect: Dialect): Uint8Array {
  const name = parseText(block, FIELD.name);
  let prefix: Uint8Array | null = null;
  if (dialect === 'ustar' || dialect === 'old-star') prefix = parseText(block, FIELD.prefix);
  else if (dialect === 'star') prefix = parseText(block, FIELD.starPrefix);
  else if (dialect === 'gnu' && gnuHasPrefix(block)) prefix = parseText(block, FIELD.prefix);
  if (prefix === null || prefix.length === 0) return name;
  const path = new Uint8Array(prefix.length + 1 + name.length);
  path.set(prefix);
  path[prefix.length] = 0x2f;
  path.set(name, prefix.length + 1);
  return path;
}

/**
 * GNU has atime and ctime in the place of the ustar prefix. Go before 1.8, and Docker of that time, wrote a prefix under the GNU magic
 * nonetheless (golang.org/issue/12594): if the times are no numbers, the bytes are a prefix.
 */
function gnuHasPrefix(block: Uint8Array): boolean {
  if (block[FIELD.prefix[0]] === 0) return false;
  try {
    parseField(block, FIELD.gnuAtime, 'atime', 0);
    parseField(block, FIELD.gnuCtime, 'ctime', 0);
    return false;
  } catch {
    return parseText(block, FIELD.prefix).every((byte) => byte < 0x80);
  }
}

/** Major and minor of a device entry. */
export function headerDevice(block: Uint8Array, dialect: Dialect, at: number): [number, number] {
  if (dialect === 'v7') return [0, 0];
  if (dialect === 'old-star') {
    const rdev = parseField(block, FIELD.oldStarRdev, 'rdev', at);
    return [Math.floor(rdev / 256), rdev % 256];
  }
  return [parseField(block, FIELD.devMajor, 'devmajor', at), parseField(block, FIELD.devMinor, 'devminor', at)];
}
