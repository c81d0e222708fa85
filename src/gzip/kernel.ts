import { readFileSync } from 'node:fs';
import {
  CONTINUE,
  kernelError,
  LAST_BLOCK,
  MAX_BLOCK_HEADER_BYTES,
  MAX_MATCH,
  MODE_BOUNDARY,
  MODE_DYNAMIC,
  MODE_FIXED,
  MODE_STORED,
  NEED_INPUT,
  PENDING_COPY,
  WINDOW_BYTES,
} from './format.js';
import { CARRY_BYTES, KernelMemory, PRIVATE_SHAPE } from './memory.js';

// Addresses of assembly/layout.ts.
const STATE = 0x100;
const HEADER = 0x2000;
const WINDOW = 0x18000;

// Indices of the fields of STATE.
const BIT_POS = 0;
const IN_END = 1;
const OUT_POS = 2;
const OUT_LIMIT = 3;
const HIST_LOW = 4;
const MODE = 5;
const LAST = 6;
const STORED_LEFT = 7;
const PENDING_LENGTH = 8;
const PENDING_DISTANCE = 9;
const HEADER_BITS = 10;
const TRACKING = 11;
const TRACK_POS = 12;
const TABLES_FIXED = 13;
const FIELDS = 14;

interface KernelExports {
  run(): number;
  enterBlock(mode: number, from: number, bytes: number): number;
  move(to: number, from: number, bytes: number): void;
  track(): void;
  endTracking(): number;
}

/** One module for memory of its own, one for shared memory. */
let compiled: WebAssembly.Module | undefined;
let compiledShared: WebAssembly.Module | undefined;

function instantiate({ shared, memory }: KernelMemory): KernelExports {
  let module = shared ? compiledShared : compiled;
  if (module === undefined) {
    module = new WebAssembly.Module(
      shared
        ? readFileSync(new URL('./inflate-shared.wasm', import.meta.url))
        : readFileSync(new URL('./inflate.wasm', import.meta.url)),
    );
    if (shared) compiledShared = module;
    else compiled = module;
  }
  return new WebAssembly.Instance(module, { env: { memory } }).exports as KernelExports;
}

/**
 * One instance of the WASM kernel: raw deflate, in 1 MiB for any stream unless it is given a larger memory. Input
 * positions count from the first byte appended since reset().
 */
export class Kernel {
  readonly #buffers: KernelMemory;
  readonly #exports: KernelExports;
  /** The whole of linear memory. */
  readonly memory: Uint8Array;
  readonly #state: Uint32Array;
  /** The current output buffer, and where its room begins and ends. */
  #buffer = 0;
  #outStart = 0;
  #outEnd = 0;
  /** The value of BIT_POS at the first bit of the input, if no input had been moved. */
  #origin = 0;

  constructor(buffers: KernelMemory = KernelMemory.make(PRIVATE_SHAPE, false)) {
    this.#buffers = buffers;
    this.#exports = instantiate(buffers);
    this.memory = buffers.bytes;
    this.#state = new Uint32Array(this.memory.buffer, STATE, FIELDS);
    this.reset();
  }

  /** Forgets everything: no input, no history, at a block boundary. Output goes to the first buffer next. */
  reset(): void {
    const state = this.#state;
    state.fill(0, 0, TABLES_FIXED);
    const start = this.#buffers.slotStart(0);
    state[BIT_POS] = start * 8;
    state[IN_END] = start;
    this.#origin = start * 8;
    this.#enterBuffer(0);
    state[OUT_POS] = this.#outStart;
    state[HIST_LOW] = this.#outStart;
  }

  #enterBuffer(buffer: number): void {
    this.#buffer = buffer;
    this.#outStart = this.#buffers.outStart(buffer);
    this.#outEnd = this.#buffers.outEnd(buffer);
  }

  /**
   * Appends as much of data[start, …) as there is room for, and returns that length. A slot of this memory is read in place, as a
   * whole, until release().
   */
  append(data: Uint8Array, start: number): number {
    const state = this.#state;
    if (data.buffer === this.memory.buffer) {
      this.#moveInput(data.byteOffset);
      state[IN_END] = data.byteOffset + data.length;
      return data.length;
    }
    const first = this.#buffers.slotStart(0);
    const limit = first + this.#buffers.shape.inBytes;
    const wanted = data.length - start;
    if (wanted > limit - state[IN_END]! && state[BIT_POS]! >>> 3 > first) {
      this.#moveInput(first + state[IN_END]! - (state[BIT_POS]! >>> 3));
    }
    const end = state[IN_END]!;
    const n = Math.min(wanted, limit - end);
    this.memory.set(start === 0 && n === data.length ? data : data.subarray(start, start + n), end);
    state[IN_END] = end + n;
    return n;
  }

  /** The input is exhausted for now: the unread rest of a slot is copied aside, because the slot belongs to its owner again. */
  release(): void {
    if (!this.#buffers.shared) return;
    const unread = this.#state[IN_END]! - (this.#state[BIT_POS]! >>> 3);
    if (unread > CARRY_BYTES) throw new Error(`${unread} bytes of input unread at the end of a slot`);
    this.#moveInput(this.#buffers.holdEnd);
  }

  /** Moves the unread input so that it ends at `end`. */
  #moveInput(end: number): void {
    const state = this.#state;
    const from = state[BIT_POS]! >>> 3;
    const unread = state[IN_END]! - from;
    const to = end - unread;
    this.#exports.move(to, from, unread);
    state[BIT_POS]! += (to - from) * 8;
    this.#origin += (to - from) * 8;
    state[IN_END] = end;
  }

  /** Position of the next unread bit. */
  get bitPosition(): number {
    return this.#state[BIT_POS]! - this.#origin;
  }

  /** Goes on at the next byte boundary, and returns a view of the input from there. */
  unread(): Uint8Array {
    const at = (this.#state[BIT_POS]! + 7) >>> 3;
    this.#state[BIT_POS] = at * 8;
    return this.memory.subarray(at, this.#state[IN_END]!);
  }

  /** Skips whole bytes of unread(). */
  skip(bytes: number): void {
    this.#state[BIT_POS]! += bytes * 8;
  }

  /** Skips bits: where a checkpoint starts within its first byte. */
  skipBits(bits: number): void {
    this.#state[BIT_POS]! += bits;
  }

  /** A new deflate stream starts here: nothing before it may be referenced. */
  startStream(): void {
    const state = this.#state;
    state[MODE] = MODE_BOUNDARY;
    state[LAST] = 0;
    state[HIST_LOW] = state[OUT_POS]!;
  }

  /**
   * Inflates at most `room` bytes, and hands them over as views that are valid until the buffer is filled again: with one
   * buffer, until the next call. Returns OUT_FULL when it stopped at `room` or at the end of the buffer, NEED_INPUT, DONE at
   * the end of the deflate stream, or an error.
   */
  run(room: number, onOutput: (view: Uint8Array) => void): number {
    const state = this.#state;
    if (state[OUT_POS]! === this.#outEnd) this.#nextBuffer();
    const from = state[OUT_POS]!;
    state[OUT_LIMIT] = Math.min(from + room, this.#outEnd);
    const status = this.#exports.run();
    const to = state[OUT_POS]!;
    if (to > from) onOutput(this.memory.subarray(from, to));
    return status;
  }

  /** Goes on in the next buffer, with the last 32 KiB of output in front of it. */
  #nextBuffer(): void {
    const state = this.#state;
    const end = this.#outEnd;
    this.#enterBuffer((this.#buffer + 1) % this.#buffers.shape.outBuffers);
    const by = end - this.#outStart;
    this.#exports.move(this.#outStart - WINDOW_BYTES, end - WINDOW_BYTES, WINDOW_BYTES);
    state[OUT_POS] = this.#outStart;
    state[HIST_LOW] = Math.max(this.#outStart - WINDOW_BYTES, state[HIST_LOW]! - by);
    // A checkpoint is tracked for 32 KiB, so it is still among these.
    if (state[TRACKING] !== 0) state[TRACK_POS]! -= by;
  }

  /** Starts to note which of the 32 KiB before this point are referred to from here on. */
  track(): void {
    this.#exports.track();
  }

  /** The 32 KiB as they were at track(), from the first byte that has been referenced since, the others zeroed. A copy. */
  endTracking(): Uint8Array {
    return this.memory.slice(WINDOW + this.#exports.endTracking(), WINDOW + WINDOW_BYTES);
  }

  /** The state, besides the window, that restore() needs to go on from here. */
  checkpointHeader(): Uint8Array {
    const state = this.#state;
    const mode = state[MODE]!;
    const pending = state[PENDING_LENGTH]!;
    const bytes = [mode | (state[LAST] ? LAST_BLOCK : 0) | (pending ? PENDING_COPY : 0)];
    if (pending > 0) {
      // 15 bits and 9: of the at most 258 bytes at least one has been written.
      const packed = (state[PENDING_DISTANCE]! - 1) | ((pending - 1) << 15);
      bytes.push(packed & 0xff, (packed >>> 8) & 0xff, packed >>> 16);
    }
    if (mode === MODE_STORED) bytes.push(state[STORED_LEFT]! & 0xff, state[STORED_LEFT]! >>> 8);
    if (mode === MODE_DYNAMIC) {
      bytes.push(...this.memory.subarray(HEADER, HEADER + ((state[HEADER_BITS]! + 7) >>> 3)));
    }
    return Uint8Array.from(bytes);
  }

  /**
   * After reset(): goes on at a checkpoint, with the header checkpointHeader() gave and at most 32 KiB of window. Input is
   * appended afterwards. Returns null, or the fault of the header.
   */
  restore(header: Uint8Array, window: Uint8Array): string | null {
    const state = this.#state;
    if (window.length > WINDOW_BYTES) return `a window of ${window.length} bytes, at most ${WINDOW_BYTES} expected`;
    const start = this.#outStart;
    this.memory.fill(0, start - WINDOW_BYTES, start - window.length);
    this.memory.set(window, start - window.length);
    // The distance was checked against the stream itself when that was indexed.
    state[HIST_LOW] = start - WINDOW_BYTES;

    const kind = header[0] ?? 0xff;
    if (kind >= PENDING_COPY * 2) return `an unknown checkpoint kind ${kind}`;
    let at = 1;
    if (kind & PENDING_COPY) {
      if (header.length < 4) return 'a truncated checkpoint header';
      const packed = header[1]! | (header[2]! << 8) | (header[3]! << 16);
      state[PENDING_DISTANCE] = (packed & 0x7fff) + 1;
      state[PENDING_LENGTH] = (packed >>> 15) + 1;
      if (state[PENDING_LENGTH]! >= MAX_MATCH) return `${state[PENDING_LENGTH]} bytes left of a back-reference`;
      at = 4;
    }
    state[LAST] = kind & LAST_BLOCK ? 1 : 0;
    const mode = kind & 3;
    if (mode === MODE_DYNAMIC) {
      const codes = header.subarray(at);
      if (codes.length > MAX_BLOCK_HEADER_BYTES) return `a block header of ${codes.length} bytes`;
      // The future place of the input: there is none yet.
      const input = state[IN_END]!;
      this.memory.set(codes, input);
      const status = this.#exports.enterBlock(mode, input, codes.length);
      if (status !== CONTINUE) return status === NEED_INPUT ? 'a truncated block header' : kernelError(status);
      state[BIT_POS] = input * 8;
      return null;
    }
    if (mode === MODE_STORED) {
      if (header.length < at + 2) return 'a truncated checkpoint header';
      state[STORED_LEFT] = header[at]! + header[at + 1]! * 256;
      at += 2;
    }
    if (header.length !== at) return `a checkpoint header of ${header.length} bytes, ${at} expected`;
    if (mode === MODE_FIXED) this.#exports.enterBlock(mode, 0, 0);
    state[MODE] = mode;
    return null;
  }
}
