import type { Hash } from 'node:crypto';

const ZEROS = new Uint8Array(256 * 1024);

/** Adds `length` zeros to a hash: the hole of a sparse file. */
export function updateZeros(hash: Hash, length: number): void {
  for (let left = length; left > 0; left -= ZEROS.length) hash.update(ZEROS.subarray(0, Math.min(left, ZEROS.length)));
}
