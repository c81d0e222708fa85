// Folds bytes of linear memory into few with the same CRC-32, by SIMD: see ../crc32.ts.

/**
 * A multiple of the CRC-32 polynomial that has five terms, all of them powers of y = x^128: y^300 + y^155 + y^117 + y^89 + 1. It is
 * the one of lowest degree; crc32.test.ts divides it. Adding it to a message, multiplied by the message's first 16 bytes, takes these
 * away and adds them to the 16 bytes 145, 183, 211 and 300 blocks behind them: so a block's sum is the block and the four sums before.
 */
const FIRST: usize = 145 * 16;
const SECOND: usize = 183 * 16;
const THIRD: usize = 211 * 16;
const LAST: usize = 300 * 16;
/** Sums are kept in room for the last 300, and this many behind them: all of it stays in a processor's first cache. */
const STRETCH: usize = 1024;

/**
 * Of `blocks` times 16 bytes at `at`, more than 300 blocks, with `register` added to the first four: leaves 4,800 bytes, 4,800 behind
 * `room`, whose CRC-32 is the same.
 */
export function fold(at: usize, blocks: usize, register: u32, room: usize): void {
  const start = room + LAST;
  memory.fill(room, 0, LAST);
  let before = v128.replace_lane<u32>(v128.splat<i32>(0), 0, register);
  let block = at;
  for (let left = blocks - LAST / 16; left > 0; ) {
    const count = min<usize>(STRETCH, left);
    left -= count;
    const end = start + (count << 4);
    let sum = start;
    v128.store(sum, v128.xor(before, summed(block, sum)));
    before = v128.splat<i32>(0);
    sum += 16;
    block += 16;
    for (; sum + 48 < end; sum += 64, block += 64) {
      // All four before the first is stored: the compiler cannot know that they do not overlap.
      const a = summed(block, sum);
      const b = summed(block + 16, sum + 16);
      const c = summed(block + 32, sum + 32);
      const d = summed(block + 48, sum + 48);
      v128.store(sum, a);
      v128.store(sum, b, 16);
      v128.store(sum, c, 32);
      v128.store(sum, d, 48);
    }
    for (; sum < end; sum += 16, block += 16) v128.store(sum, summed(block, sum));
    memory.copy(room, room + (count << 4), LAST);
  }
  // The last 300 blocks: to each come the sums before it, but none of these blocks.
  memory.copy(start, block, LAST);
  add(start, start - FIRST, FIRST);
  add(start, start - SECOND, SECOND);
  add(start, start - THIRD, THIRD);
  add(start, start - LAST, LAST);
}

// @ts-ignore: decorator
@inline
function summed(block: usize, sum: usize): v128 {
  const far = v128.xor(v128.load(sum - THIRD), v128.load(sum - LAST));
  return v128.xor(v128.xor(v128.load(block), v128.load(sum - FIRST)), v128.xor(v128.load(sum - SECOND), far));
}

function add(to: usize, from: usize, bytes: usize): void {
  for (let i: usize = 0; i < bytes; i += 16) v128.store(to + i, v128.xor(v128.load(to + i), v128.load(from + i)));
}
