import { FormatError } from '../bytes/index.js';
import { MemoryCrc32 } from './crc32.js';
import { Kernel } from './kernel.js';
import { KernelMemory, PRIVATE_SHAPE } from './memory.js';
import { type CheckpointState, CheckpointStateError, decodeCheckpointState } from './state.js';
import { GzipStream } from './stream.js';

/**
 * Inflates spans, one at a time. One instance per inflate worker; its memory does not depend on the spans.
 *
 * Trailers of members that end within a span are skipped unchecked: the span's own CRC-32, which the caller compares, covers the
 * same bytes.
 */
export class SpanInflater {
  #onOutput: (view: Uint8Array) => void = () => {};
  #crc = 0;
  readonly #stream: GzipStream;

  constructor() {
    const memory = KernelMemory.make(PRIVATE_SHAPE, false);
    const { sum } = new MemoryCrc32(memory, 0);
    const events = {
      output: (view: Uint8Array): void => {
        this.#crc = sum(view, this.#crc);
        this.#onOutput(view);
      },
      limit: (produced: number) => produced,
      trailer: () => {},
    };
    this.#stream = new GzipStream(events, new Kernel(memory));
  }

  /**
   * @param compressed  the span's bytes of the blob: from ⌊start bit / 8⌋ to ⌈end bit / 8⌉
   * @param startBit    start bit modulo 8
   * @param state       the span's checkpoint state; NO_STATE for a span that starts with a gzip member's header
   * @param outLength   bytes of output, at least 1
   * @param onOutput    gets views into WASM memory, valid only during the call, in order
   * @returns the CRC-32 of the output
   * @throws CheckpointStateError when the state is not what its digest says, or malformed; FormatError when the span is, or
   *   it does not yield `outLength` bytes; offsets count from the start of `compressed`
   */
  inflate(
    compressed: Uint8Array,
    startBit: number,
    state: CheckpointState,
    outLength: number,
    onOutput: (view: Uint8Array) => void,
  ): number {
    if (!(outLength >= 1)) throw new RangeError(`outLength ${outLength}`);
    const stream = this.#stream;
    const { header, window } = decodeCheckpointState(state);
    if (header.length === 0) {
      stream.restart(outLength);
    } else {
      const wrong = stream.restartAt(header, window, startBit, outLength);
      if (wrong !== null) throw new CheckpointStateError(wrong);
    }
    this.#crc = 0;
    this.#onOutput = onOutput;
    stream.push(compressed);
    if (stream.produced !== outLength) {
      throw new FormatError('span', compressed.length, `it yields ${stream.produced} bytes, ${outLength} expected`);
    }
    return this.#crc;
  }
}
