import { crc32, FormatError } from '../bytes/index.js';
import { ZstdDecoder } from './decoder.js';

/** Decodes one piece of a stream and insists on its length. @returns the CRC-32 of the output */
function decodeExactly(
  decoder: ZstdDecoder,
  compressed: Uint8Array,
  outLength: number,
  onOutput: (view: Uint8Array) => void,
): number {
  let crc = 0;
  let produced = 0;
  decoder.push(compressed, (view) => {
    produced += view.length;
    if (produced > outLength) {
      throw new FormatError('span', compressed.length, `it yields more than the ${outLength} bytes expected`);
    }
    crc = crc32(view, crc);
    onOutput(view);
  });
  if (produced !== outLength) {
    throw new FormatError('span', compressed.length, `it yields ${produced} bytes, ${outLength} expected`);
  }
  return crc;
}

/**
 * Inflates spans of a layer of kind `zstd`, one at a time, in any order. One instance per inflate worker; it keeps at most
 * 32 MiB between spans.
 */
export class ZstdSpanInflater {
  readonly #decoder = new ZstdDecoder();

  /**
   * @param compressed  the span's bytes of the blob: whole frames
   * @param onOutput    gets views into WASM memory, valid only during the call, in order
   * @returns the CRC-32 of the output
   * @throws FormatError when the frames are corrupt or do not yield exactly `outLength` bytes; offsets count from the start
   *   of `compressed`
   */
  inflate(compressed: Uint8Array, outLength: number, onOutput: (view: Uint8Array) => void): number {
    const decoder = this.#decoder;
    try {
      const crc = decodeExactly(decoder, compressed, outLength, onOutput);
      if (!decoder.atEnd) throw new FormatError('span', compressed.length, 'it ends within a frame');
      return crc;
    } finally {
      decoder.reset();
    }
  }
}

/**
 * Inflates the spans of a layer of kind `zstd-stream`: every one of them, in order, from the first. One instance per layer
 * being read; its memory is the frame's window, at most 128 MiB (BuildKit's: 8 MiB or less), until it is garbage.
 *
 * @example
 * const stream = new ZstdStream();
 * for (let i = 0; i < wanted + 1; i++) crc[i] = stream.inflate(compressedSpan(i), length(i), (view) => store(i, view));
 */
export class ZstdStream {
  readonly #decoder = new ZstdDecoder();
  #broken = false;

  /**
   * The next span.
   *
   * @param compressed  all its bytes of the blob
   * @param onOutput    gets views into WASM memory, valid only during the call, in order
   * @returns the CRC-32 of the output
   * @throws FormatError when it is corrupt or does not yield exactly `outLength` bytes; then this stream cannot be used any more
   */
  inflate(compressed: Uint8Array, outLength: number, onOutput: (view: Uint8Array) => void): number {
    if (this.#broken) throw new Error('a zstd stream cannot go on after an error');
    this.#broken = true;
    const crc = decodeExactly(this.#decoder, compressed, outLength, onOutput);
    this.#broken = false;
    return crc;
  }
}
