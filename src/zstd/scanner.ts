import { ClipError, FormatError } from '../bytes/index.js';
import {
  BLOCK_HEADER_BYTES,
  BLOCK_RAW,
  BLOCK_RESERVED,
  BLOCK_RLE,
  CHECKSUM_BYTES,
  CHECKSUM_FLAG,
  CONTENT_SIZE_BYTES,
  DICTIONARY_ID_BYTES,
  MAGIC,
  MAX_BLOCK_BYTES,
  MAX_FRAME_HEADER,
  MAX_WINDOW_BYTES,
  RESERVED_BIT,
  SINGLE_SEGMENT_FLAG,
  SKIPPABLE_MAGIC,
  SKIPPABLE_MASK,
} from './format.js';

export type ScanEvent =
  /** The input is used up. */
  | 'none'
  /** A frame's header has been read; `contentSize` is the size of its content, if the header has it. */
  | 'frame'
  /** A block ends here; together the blocks so far yield at most `bound` bytes of output. */
  | 'block'
  /** A frame ends here, its checksum included. */
  | 'frame-end'
  /** A skippable frame's header has been read; it began at `frameStart`, and ends at `frameEnd`. */
  | 'skippable';

type State = 'header' | 'block-header' | 'block-body' | 'checksum' | 'skip-body';

/**
 * Finds the frames and blocks of a Zstandard stream by their headers alone, without decoding (RFC 8878 §3.1). Input comes in
 * any pieces.
 */
export class FrameScanner {
  /** Bytes scanned so far. */
  offset = 0;
  frameStart = 0;
  /** Of a skippable frame. */
  frameEnd = 0;
  /** Of the current frame; null if its header does not have it. */
  contentSize: number | null = null;
  /** An upper bound of the output of all blocks up to here. */
  bound = 0;
  #state: State = 'header';
  readonly #header = new Uint8Array(MAX_FRAME_HEADER);
  #collected = 0;
  #needed = 4;
  /** Bytes left of the content of a block or skippable frame. */
  #left = 0;
  #blockBound = 0;
  #lastBlock = false;
  #checksum = false;
  #maxBlock = 0;

  /** True where a stream may end: behind a whole frame, or at its very start. */
  get complete(): boolean {
    return this.#state === 'header' && this.#collected === 0;
  }

  #fail(detail: string, offset = this.frameStart): never {
    throw new FormatError('zstd stream', offset, detail);
  }

  /**
   * Scans input[from, …) up to the next event.
   * @returns the event, and in `offset` where it is; the number of bytes taken is the difference of `offset`
   * @throws FormatError for anything RFC 8878 does not allow in a header; ClipError UNSUPPORTED for dictionaries and windows
   *   beyond 128 MiB
   */
  scan(input: Uint8Array, from: number): ScanEvent {
    let at = from;
    const base = this.offset - from;
    for (;;) {
      if (this.#state === 'block-body' || this.#state === 'skip-body') {
        const n = Math.min(this.#left, input.length - at);
        at += n;
        this.offset = base + at;
        this.#left -= n;
        if (this.#left > 0) return 'none';
        if (this.#state === 'skip-body') {
          this.#expect('header', 4);
          continue;
        }
        this.bound += this.#blockBound;
        if (!this.#lastBlock) this.#expect('block-header', BLOCK_HEADER_BYTES);
        else if (this.#checksum) this.#expect('checksum', CHECKSUM_BYTES);
        else {
          this.#expect('header', 4);
          return 'frame-end';
        }
        return 'block';
      }
      const n = Math.min(this.#needed - this.#collected, input.length - at);
      if (this.#collected === 0 && this.#state === 'header') this.frameStart = base + at;
      this.#header.set(input.subarray(at, at + n), this.#collected);
      this.#collected += n;
      at += n;
      this.offset = base + at;
      if (this.#collected < this.#needed) return 'none';
      const event = this.#parse();
      if (event !== 'none') return event;
    }
  }

  #expect(state: State, needed: number): void {
    this.#state = state;
    this.#collected = 0;
    this.#needed = needed;
  }

  /** The needed bytes of a header are there. It may turn out to need more. */
  #parse(): ScanEvent {
    if (this.#state === 'checksum') {
      this.#expect('header', 4);
      return 'frame-end';
    }
    if (this.#state === 'block-header') {
      this.#parseBlock();
      return 'none';
    }
    return this.#parseFrame();
  }

  #parseBlock(): void {
    const value = this.#header[0]! | (this.#header[1]! << 8) | (this.#header[2]! << 16);
    const type = (value >> 1) & 3;
    const size = value >> 3;
    const at = this.offset - BLOCK_HEADER_BYTES;
    if (type === BLOCK_RESERVED) this.#fail('a block of the reserved type', at);
    if (size > this.#maxBlock) this.#fail(`a block of ${size} bytes, where ${this.#maxBlock} is the most`, at);
    this.#lastBlock = (value & 1) === 1;
    this.#blockBound = type === BLOCK_RAW || type === BLOCK_RLE ? size : this.#maxBlock;
    this.#left = type === BLOCK_RLE ? 1 : size;
    this.#state = 'block-body';
  }

  #parseFrame(): ScanEvent {
    const header = this.#header;
    const view = new DataView(header.buffer);
    const magic = view.getUint32(0, true);
    if ((magic & SKIPPABLE_MASK) >>> 0 === SKIPPABLE_MAGIC) {
      if (this.#collected < 8) {
        this.#needed = 8;
        return 'none';
      }
      this.#left = view.getUint32(4, true);
      this.frameEnd = this.offset + this.#left;
      this.#state = 'skip-body';
      return 'skippable';
    }
    if (magic !== MAGIC) {
      this.#fail(this.frameStart === 0 ? 'no zstd frame' : 'something follows, where a frame or the end should be');
    }
    if (this.#collected < 5) {
      this.#needed = 5;
      return 'none';
    }
    const descriptor = header[4]!;
    if (descriptor & RESERVED_BIT) this.#fail('a reserved bit is set in the frame header');
    const single = (descriptor & SINGLE_SEGMENT_FLAG) !== 0;
    const dictionaryBytes = DICTIONARY_ID_BYTES[descriptor & 3]!;
    const sizeFlag = descriptor >> 6;
    const sizeBytes = sizeFlag === 0 && single ? 1 : CONTENT_SIZE_BYTES[sizeFlag]!;
    const length = 5 + (single ? 0 : 1) + dictionaryBytes + sizeBytes;
    if (this.#collected < length) {
      this.#needed = length;
      return 'none';
    }

    const dictionaryAt = single ? 5 : 6;
    for (let i = 0; i < dictionaryBytes; i++) {
      if (header[dictionaryAt + i] === 0) continue;
      throw new ClipError('UNSUPPORTED', `the zstd frame at byte ${this.frameStart} needs a dictionary`);
    }
    this.contentSize = readContentSize(view, dictionaryAt + dictionaryBytes, sizeBytes);
    const window = single ? this.contentSize! : windowSize(header[5]!);
    if (window > MAX_WINDOW_BYTES) {
      throw new ClipError(
        'UNSUPPORTED',
        `the zstd frame at byte ${this.frameStart} needs a window of ${window} bytes; at most ${MAX_WINDOW_BYTES} are supported`,
        { hint: 'compress the layer again with --long=27 or less' },
      );
    }
    this.#maxBlock = Math.min(MAX_BLOCK_BYTES, window);
    this.#checksum = (descriptor & CHECKSUM_FLAG) !== 0;
    this.#expect('block-header', BLOCK_HEADER_BYTES);
    return 'frame';
  }
}

/** §3.1.1.1.4; two bytes count from 256. */
function readContentSize(view: DataView, at: number, bytes: number): number | null {
  switch (bytes) {
    case 1:
      return view.getUint8(at);
    case 2:
      return view.getUint16(at, true) + 256;
    case 4:
      return view.getUint32(at, true);
    case 8:
      return Number(view.getBigUint64(at, true));
    default:
      return null;
  }
}

/** §3.1.1.1.2 Window_Descriptor. */
function windowSize(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
}
