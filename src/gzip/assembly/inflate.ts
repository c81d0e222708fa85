// The inflate kernel (RFC 1951): raw deflate from memory to memory, stopping and resuming at any byte of either.
//
// The state between two calls is one bit position, one output position and the block at hand (layout.ts), so that a
// checkpoint is a copy of these, and resuming from one is writing them. src/gzip/kernel.ts is the only caller.
import { careful, copyPending, roomy } from './careful';
import { fast } from './fast';
import { readBlockHeader, readCodes } from './header';
import {
  BIT_POS, CONTINUE, DONE, HISTORY, IN_END, LAST, MARKS, MODE, MODE_BOUNDARY, MODE_DYNAMIC, MODE_STORED, NEED_INPUT,
  OUT_FULL, OUT_LIMIT, OUT_POS, PENDING_LENGTH, STORED_LEFT, TRACKING, TRACK_POS, WINDOW,
} from './layout';
import { buildFixed, initialize } from './tables';

initialize();

/**
 * Decodes until OUT_POS = OUT_LIMIT (OUT_FULL), the input is used up (NEED_INPUT: the bytes from BIT_POS on must be given
 * again, with more), the deflate stream is over (DONE) or the input is wrong (16 and above). OUT_FULL goes first: at the
 * limit nothing more is read, not even the end of the block.
 */
export function run(): i32 {
  while (true) {
    if (load<u32>(PENDING_LENGTH)) copyPending();
    if (load<usize>(OUT_POS) == load<usize>(OUT_LIMIT)) return OUT_FULL;
    const mode = load<i32>(MODE);
    let status: i32;
    if (mode >= 2) {
      if (!roomy()) status = careful();
      else if (load<i32>(TRACKING)) status = fast<u8>();
      else status = fast<u16>();
    } else if (mode == MODE_STORED) {
      status = copyStored();
    } else {
      if (load<i32>(LAST)) return DONE;
      status = readBlockHeader();
    }
    if (status != CONTINUE) return status;
  }
}

function copyStored(): i32 {
  const left = load<u32>(STORED_LEFT);
  if (left == 0) {
    store<i32>(MODE, MODE_BOUNDARY);
    return CONTINUE;
  }
  const from = load<u32>(BIT_POS) >> 3;
  const out = load<usize>(OUT_POS);
  const n = min<u32>(left, min<u32>(load<u32>(IN_END) - from, load<u32>(OUT_LIMIT) - <u32>out));
  if (n == 0) return NEED_INPUT;
  memory.copy(out, from, n);
  store<u32>(BIT_POS, (from + n) << 3);
  store<usize>(OUT_POS, out + n);
  store<u32>(STORED_LEFT, left - n);
  if (left == n) store<i32>(MODE, MODE_BOUNDARY);
  return CONTINUE;
}

/**
 * Enters a block at a checkpoint: `mode` is MODE_FIXED or MODE_DYNAMIC. A dynamic block's header bits, from HLIT on, must lie
 * at `from`, `bytes` of them. Returns CONTINUE or an error; BIT_POS is left undefined.
 */
export function enterBlock(mode: i32, from: u32, bytes: u32): i32 {
  if (mode == MODE_DYNAMIC) {
    const status = readCodes(from << 3, (from + bytes) << 3);
    if (status != CONTINUE) return status;
  } else {
    buildFixed();
  }
  store<i32>(MODE, mode);
  return CONTINUE;
}

/** Copies within memory; the stretches may overlap. JavaScript's own copy is slow in shared memory. */
export function move(to: usize, from: usize, bytes: usize): void {
  memory.copy(to, from, bytes);
}

/** Keeps the window before OUT_POS, and starts to note which of its bytes are referenced. */
export function track(): void {
  const out = load<usize>(OUT_POS);
  memory.copy(WINDOW, out - HISTORY, HISTORY);
  memory.fill(MARKS, 0, HISTORY);
  store<usize>(TRACK_POS, out);
  store<i32>(TRACKING, 1);
}

/** Zeroes the bytes of the kept window that were not referenced. Returns the index of the first that was, or 32768. */
export function endTracking(): u32 {
  store<i32>(TRACKING, 0);
  let first: u32 = <u32>HISTORY;
  for (let i: usize = HISTORY; i > 0; ) {
    i -= 16;
    const marks = v128.load(MARKS + i);
    if (v128.any_true(marks)) first = <u32>i;
    v128.store(WINDOW + i, v128.and(v128.load(WINDOW + i), marks));
  }
  while (first < <u32>HISTORY && !load<u8>(MARKS + first)) first++;
  return first;
}
