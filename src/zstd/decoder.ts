import { readFileSync } from 'node:fs';
import { ClipError, FormatError } from '../bytes/index.js';
import { ERROR_NAMES, MAX_ERROR_CODE } from './format.js';

/** The exports of libzstd (zstd.h) as the zstddec package compiles it. Pointers and sizes are 32 bits. */
interface LibZstd {
  readonly memory: { readonly buffer: ArrayBuffer };
  malloc(size: number): number;
  ZSTD_createDCtx(): number;
  ZSTD_freeDCtx(context: number): number;
  /** ZSTD_inBuffer and ZSTD_outBuffer are {pointer, size, position}. */
  ZSTD_decompressStream(context: number, output: number, input: number): number;
}

let compiled: WebAssembly.Module | undefined;

/** Reads and compiles libzstd, which the first decoder does too: its file may be gone by then. */
export function compileZstd(): WebAssembly.Module {
  compiled ??= new WebAssembly.Module(readFileSync(new URL('./zstd.wasm', import.meta.url)));
  return compiled;
}

function instantiate(): LibZstd {
  const env = { emscripten_notify_memory_growth: () => {} };
  return new WebAssembly.Instance(compileZstd(), { env }).exports as LibZstd;
}

/** Holds a block of output (128 KiB); a view of this size is worth a call. */
const OUT_CAPACITY = 256 * 1024;
const IN_CAPACITY = 256 * 1024;
/** WASM memory only grows. An instance that a long window has grown beyond this is dropped after use. */
const KEEP_BYTES = 32 * 1024 * 1024;

/**
 * A streaming Zstandard decoder: libzstd in WebAssembly. Skippable frames are skipped, frames follow one another. Memory is
 * the window, at most 128 MiB, and 512 KiB.
 */
export class ZstdDecoder {
  #lib!: LibZstd;
  #context = 0;
  #in = 0;
  #out = 0;
  #inBuffer = 0;
  #outBuffer = 0;
  #consumed = 0;
  #atEnd = true;

  constructor() {
    this.#instantiate();
  }

  #instantiate(): void {
    const lib = instantiate();
    this.#lib = lib;
    this.#in = this.#malloc(IN_CAPACITY);
    this.#out = this.#malloc(OUT_CAPACITY);
    this.#inBuffer = this.#malloc(12);
    this.#outBuffer = this.#malloc(12);
    this.#context = this.#newContext();
  }

  #malloc(size: number): number {
    const pointer = this.#lib.malloc(size);
    if (pointer === 0) throw new ClipError('LIMIT', 'no memory for a zstd decoder');
    return pointer;
  }

  #newContext(): number {
    const context = this.#lib.ZSTD_createDCtx();
    if (context === 0) throw new ClipError('LIMIT', 'no memory for a zstd decoder');
    return context;
  }

  /** Between two frames. */
  get atEnd(): boolean {
    return this.#atEnd;
  }

  /** Starts over at the start of a frame. Also the way out of an error. */
  reset(): void {
    this.#consumed = 0;
    this.#atEnd = true;
    if (this.#lib.memory.buffer.byteLength > KEEP_BYTES) {
      this.#instantiate();
      return;
    }
    this.#lib.ZSTD_freeDCtx(this.#context);
    this.#context = this.#newContext();
  }

  /**
   * Decodes the next bytes, in any pieces. Before it returns it passes on all output up to the end of the last whole block. Views
   * are valid only during the call.
   *
   * @throws FormatError with the offset since reset(); the decoder is then of no use until reset()
   */
  push(input: Uint8Array, onOutput: (view: Uint8Array) => void): void {
    for (let from = 0; from < input.length; from += IN_CAPACITY) {
      this.#pushPiece(input.subarray(from, Math.min(input.length, from + IN_CAPACITY)), onOutput);
    }
  }

  #pushPiece(piece: Uint8Array, onOutput: (view: Uint8Array) => void): void {
    const lib = this.#lib;
    new Uint8Array(lib.memory.buffer, this.#in, piece.length).set(piece);
    let input = new Uint32Array(lib.memory.buffer, this.#inBuffer, 3);
    input.set([this.#in, piece.length, 0]);
    let taken = 0;
    for (;;) {
      let output = new Uint32Array(lib.memory.buffer, this.#outBuffer, 3);
      output.set([this.#out, OUT_CAPACITY, 0]);
      const hint = lib.ZSTD_decompressStream(this.#context, this.#outBuffer, this.#inBuffer);
      // The memory may have grown, and these views with it become empty.
      input = new Uint32Array(lib.memory.buffer, this.#inBuffer, 3);
      output = new Uint32Array(lib.memory.buffer, this.#outBuffer, 3);
      const position = input[2]!;
      if (hint < 0 && hint >= -MAX_ERROR_CODE) this.#fail(-hint, this.#consumed + position);
      const produced = output[2]!;
      // Without input after a frame's end, the result is the size of the next frame's header, not 0.
      if (position > taken || produced > 0) this.#atEnd = hint === 0;
      taken = position;
      if (produced > 0) onOutput(new Uint8Array(lib.memory.buffer, this.#out, produced));
      // Room left in the output means that nothing is held back.
      if (position === piece.length && produced < OUT_CAPACITY) break;
    }
    this.#consumed += piece.length;
  }

  #fail(code: number, offset: number): never {
    throw new FormatError('zstd stream', offset, ERROR_NAMES[code] ?? `error ${code}`);
  }
}
