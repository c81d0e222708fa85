import type { BlobTarget, FillOptions } from './source.js';

/** A stretch of memory, filled from its start. */
export class MemoryTarget implements BlobTarget {
  received = 0;

  constructor(
    readonly memory: Uint8Array,
    readonly onBytes: FillOptions['onBytes'],
  ) {}

  room(): Uint8Array {
    return this.memory.subarray(this.received);
  }

  filled(bytes: number): Promise<void> | null {
    this.received += bytes;
    return this.onBytes?.(this.received) ?? null;
  }
}
