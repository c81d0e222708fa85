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

// Addresses of assembly/layout.ts.
const STATE = 0x100;
const HEADER = 0x2000;
const WINDOW = 0x18000;
const OUT = 0x20040;
const OUT_START = OUT + WINDOW_BYTES;
const OUT_END = OUT_START + 0x40000;
const IN = 0x80000;
const IN_CAPACITY = 0x40000;

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

/** The part of the JavaScript API that is used here: neither lib.es2023 nor Node's types declare it. */
declare namespace WebAssembly {
  interface Memory {
    readonly buffer: ArrayBuffer;
  }
  class Module {
    constructor(bytes: Uint8Array);
  }
  class Instance {
    constructor(module: Module);
    readonly exports: unknown;
  }
}

interface KernelExports {
  readonly memory: WebAssembly.Memory;
  run(): number;
  enterBlock(mode: number, bytes: number): number;
  track(): void;
  endTracking(): number;
}

let compiled: WebAssembly.Module | undefined;

function instantiate(): KernelExports {
  compiled ??= new WebAssembly.Module(readFileSync(new URL('./inflate.wasm', import.meta.url)));
  return new WebAssembly.Instance(compiled).exports as KernelExports;
}

/**
 * One instance of the WASM kernel: raw deflate, up to 256 KiB of input and of output at a time, 1 MiB in all whatever the
 * stream. Input positions count from the first byte appended since reset().
 */
export class Kernel {
  readonly #exports = instantiate();
  /** The whole of linear memory. */
  readonly memory = new Uint8Array(this.#exports.memory.buffer);
  readonly #state = new Uint32Array(this.#exports.memory.buffer, STATE, FIELDS);
  /** Input bytes that have been read and thrown away. */
  #discarded = 0;

  constructor() {
    this.reset();
  }

  /** Forgets everything: no input, no history, at a block boundary. */
  reset(): void {
    const state = this.#state;
    state.fill(0, 0, TABLES_FIXED);
    state[OUT_POS] = OUT_START;
    state[HIST_LOW] = OUT_START;
    this.#discarded = 0;
  }

  /** Appends as much of data[start, …) as there is room for, and returns how much that was. */
  append(data: Uint8Array, start: number): number {
    const state = this.#state;
    const wanted = data.length - start;
    const read = state[BIT_POS]! >>> 3;
    if (wanted > IN_CAPACITY - state[IN_END]! && read > 0) {
      this.memory.copyWithin(IN, IN + read, IN + state[IN_END]!);
      state[BIT_POS]! -= read * 8;
      state[IN_END]! -= read;
      this.#discarded += read;
    }
    const end = state[IN_END]!;
    const n = Math.min(wanted, IN_CAPACITY - end);
    this.memory.set(start === 0 && n === data.length ? data : data.subarray(start, start + n), IN + end);
    state[IN_END] = end + n;
    return n;
  }

  /** Position of the next unread bit. */
  get bitPosition(): number {
    return this.#discarded * 8 + this.#state[BIT_POS]!;
  }

  /** Goes on at the next byte boundary, and returns a view of what there is of input from there. */
  unread(): Uint8Array {
    const at = (this.#state[BIT_POS]! + 7) >>> 3;
    this.#state[BIT_POS] = at * 8;
    return this.memory.subarray(IN + at, IN + this.#state[IN_END]!);
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
   * Inflates at most `room` bytes, and hands them over as views that are valid until the next call. Returns OUT_FULL when it
   * stopped at `room` or at the end of the buffer, NEED_INPUT, DONE at the end of the deflate stream, or an error.
   */
  run(room: number, onOutput: (view: Uint8Array) => void): number {
    const state = this.#state;
    if (state[OUT_POS]! === OUT_END) this.#slide();
    const from = state[OUT_POS]!;
    state[OUT_LIMIT] = Math.min(from + room, OUT_END);
    const status = this.#exports.run();
    const to = state[OUT_POS]!;
    if (to > from) onOutput(this.memory.subarray(from, to));
    return status;
  }

  /** Moves the last 32 KiB of output to the front of the buffer. */
  #slide(): void {
    const state = this.#state;
    const by = OUT_END - OUT_START;
    this.memory.copyWithin(OUT, OUT + by, OUT_END);
    state[OUT_POS] = OUT_START;
    state[HIST_LOW] = Math.max(OUT, state[HIST_LOW]! - by);
    // A checkpoint is tracked for 32 KiB, so it is still in the buffer.
    if (state[TRACKING] !== 0) state[TRACK_POS]! -= by;
  }

  /** Starts to note which of the 32 KiB before this point are referenced from here on. */
  track(): void {
    this.#exports.track();
  }

  /** The 32 KiB as they were at track(), from the first byte that has been referenced since, the others zeroed. A copy. */
  endTracking(): Uint8Array {
    return this.memory.slice(WINDOW + this.#exports.endTracking(), WINDOW + WINDOW_BYTES);
  }

  /** What restore() needs, beside the window, to go on from here. */
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
   * appended afterwards. Returns null, or what is wrong with the header.
   */
  restore(header: Uint8Array, window: Uint8Array): string | null {
    const state = this.#state;
    if (window.length > WINDOW_BYTES) return `a window of ${window.length} bytes, at most ${WINDOW_BYTES} expected`;
    this.memory.fill(0, OUT, OUT_START - window.length);
    this.memory.set(window, OUT_START - window.length);
    // How far back the stream itself allows was checked when it was indexed.
    state[HIST_LOW] = OUT;

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
      this.memory.set(codes, IN);
      const status = this.#exports.enterBlock(mode, codes.length);
      if (status !== CONTINUE) return status === NEED_INPUT ? 'a truncated block header' : kernelError(status);
      state[BIT_POS] = 0;
      return null;
    }
    if (mode === MODE_STORED) {
      if (header.length < at + 2) return 'a truncated checkpoint header';
      state[STORED_LEFT] = header[at]! + header[at + 1]! * 256;
      at += 2;
    }
    if (header.length !== at) return `a checkpoint header of ${header.length} bytes, ${at} expected`;
    if (mode === MODE_FIXED) this.#exports.enterBlock(mode, 0);
    state[MODE] = mode;
    return null;
  }
}
