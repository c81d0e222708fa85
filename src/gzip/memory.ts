import { WINDOW_BYTES } from './format.js';

/** Opaque: the memory of a kernel, which may be posted to a thread if it is shared. */
export type LinearMemory = WebAssembly.Memory;

/** The room for output and input. */
export interface KernelShape {
  /** Filled in turn. One is enough if the output is used before the kernel goes on. */
  readonly outBuffers: number;
  readonly outBytes: number;
  readonly inSlots: number;
  readonly inBytes: number;
  /** Threads that sum what lies in the memory, at the same time. */
  readonly sums: number;
}

const PAGE = 65536;
/** Where output begins; everything below is the kernel's own (assembly/layout.ts). */
const OUT = 0x20040;
/** Behind each output buffer, because a fast copy may write beyond it. */
const OVERSHOOT = 64;
/** Before each input slot, for the unread rest of the one before, which is at most a block header (289 bytes). */
export const CARRY_BYTES = 1024;
/** Behind all input: may be read, is never used. */
const OVERREAD = 1024;
/** Behind that, for each thread that sums: 300 blocks of 16 bytes, and 1,024 more (assembly/fold.ts). */
const SUM_ROOM = 1324 * 16;

/** One buffer for each, in memory of the kernel's own. */
export const PRIVATE_SHAPE: KernelShape = {
  outBuffers: 1,
  outBytes: 256 * 1024,
  inSlots: 1,
  inBytes: 256 * 1024,
  sums: 1,
};

/**
 * The linear memory of a kernel, by its buffers. If it is shared, other threads put input into the slots and read the output in
 * place: a thread that gets `memory` and `shape` makes its own view of them.
 */
export class KernelMemory {
  readonly shape: KernelShape;
  readonly memory: LinearMemory;
  readonly bytes: Uint8Array;

  constructor(shape: KernelShape, memory: LinearMemory) {
    this.shape = shape;
    this.memory = memory;
    this.bytes = new Uint8Array(memory.buffer);
  }

  static make(shape: KernelShape, shared: boolean): KernelMemory {
    const pages = Math.ceil(sumRoom(shape, shape.sums) / PAGE);
    return new KernelMemory(shape, new WebAssembly.Memory({ initial: pages, maximum: pages, shared }));
  }

  get shared(): boolean {
    return this.memory.buffer instanceof SharedArrayBuffer;
  }

  /** Address of the first byte of output in a buffer; the 32 KiB before it are its history. */
  outStart(buffer: number): number {
    return OUT + buffer * outStride(this.shape) + WINDOW_BYTES;
  }

  outEnd(buffer: number): number {
    return this.outStart(buffer) + this.shape.outBytes;
  }

  slotStart(slot: number): number {
    return slotsAt(this.shape) + slot * slotStride(this.shape) + CARRY_BYTES;
  }

  /** The room for input of a slot, or the first `length` bytes of it. */
  slot(slot: number, length = this.shape.inBytes): Uint8Array {
    return this.view(this.slotStart(slot), length);
  }

  /** The unread rest of a slot is kept before this address for the next one, because the slot itself may be filled again. */
  get holdEnd(): number {
    return slotsEnd(this.shape) + CARRY_BYTES;
  }

  /** The room of a thread that sums. */
  sumRoom(thread: number): number {
    return sumRoom(this.shape, thread);
  }

  view(address: number, length: number): Uint8Array {
    return this.bytes.subarray(address, address + length);
  }
}

function outStride(shape: KernelShape): number {
  return WINDOW_BYTES + shape.outBytes + OVERSHOOT;
}

function slotsAt(shape: KernelShape): number {
  return align(OUT + shape.outBuffers * outStride(shape));
}

function slotStride(shape: KernelShape): number {
  return CARRY_BYTES + align(shape.inBytes);
}

function slotsEnd(shape: KernelShape): number {
  return slotsAt(shape) + shape.inSlots * slotStride(shape);
}

function sumRoom(shape: KernelShape, thread: number): number {
  return slotsEnd(shape) + CARRY_BYTES + OVERREAD + thread * SUM_ROOM;
}

function align(address: number): number {
  return Math.ceil(address / 64) * 64;
}
