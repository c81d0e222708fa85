import { readFileSync } from 'node:fs';
import { crc32 } from '../bytes/index.js';
import type { KernelMemory } from './memory.js';

/** What is left when bytes were folded (assembly/fold.ts), and as much before it that folding needs. */
const LEFT_BYTES = 4800;
/** Of fewer bytes folding saves nothing. */
const LEAST_FOLDED = 4 * LEFT_BYTES;
const BLOCK = 16;

/** One module for memory of its own, one for shared memory. */
const modules = new Map<boolean, WebAssembly.Module>();

function folder({
  shared,
  memory,
}: KernelMemory): (at: number, blocks: number, register: number, room: number) => void {
  let module = modules.get(shared);
  if (module === undefined) {
    module = new WebAssembly.Module(
      shared
        ? readFileSync(new URL('./fold-shared.wasm', import.meta.url))
        : readFileSync(new URL('./fold.wasm', import.meta.url)),
    );
    modules.set(shared, module);
  }
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  return (exports as { fold: ReturnType<typeof folder> }).fold;
}

/**
 * CRC-32 of what lies in a kernel's memory, for one thread. Long stretches are made short by SIMD first, which takes a third of the
 * time of Node's own function for all of it (docs/benchmarks.md, "Indexing and opening").
 */
export class MemoryCrc32 {
  readonly #memory: KernelMemory;
  readonly #fold: ReturnType<typeof folder>;
  readonly #room: number;
  readonly #left: Uint8Array;

  /** @param thread  of those that sum in this memory at the same time, below `KernelShape.sums` */
  constructor(memory: KernelMemory, thread: number) {
    this.#memory = memory;
    this.#fold = folder(memory);
    this.#room = memory.sumRoom(thread);
    this.#left = memory.view(this.#room + LEFT_BYTES, LEFT_BYTES);
  }

  /** As crc32(): of `previous` and what follows it, anywhere; fast if it is in the memory. */
  readonly sum = (view: Uint8Array, previous = 0): number => {
    if (view.length < LEAST_FOLDED || view.buffer !== this.#memory.bytes.buffer) return crc32(view, previous);
    const blocks = Math.floor(view.length / BLOCK);
    // A register is the same as these bits added to the first bytes, and a register of 0 before them.
    this.#fold(view.byteOffset, blocks, ~previous, this.#room);
    return crc32(view.subarray(blocks * BLOCK), crc32(this.#left, ~0 >>> 0));
  };
}
