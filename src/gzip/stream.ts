import { FormatError } from '../bytes/index.js';
import { CONTINUE, DONE, ID1, ID2, kernelError, NEED_INPUT, TRAILER_BYTES } from './format.js';
import { Kernel } from './kernel.js';
import { MemberHeaderReader } from './member-header.js';

enum Phase {
  Header,
  Blocks,
  Trailer,
  /** After a trailer: another member, zero padding, garbage, or nothing. */
  Between,
  Padding,
  Garbage,
}

export interface GzipStreamEvents {
  /** A view of the next output, valid during the call. */
  output(view: Uint8Array): void;
  /**
   * `limit` bytes of output have been produced, and nothing after them has been read. Returns the next limit, which is
   * larger; `limit` itself again to stop.
   */
  limit(produced: number): number;
  /** The trailer of a member: CRC-32 and length (mod 2^32) of its output, to be compared with the caller's sums; and its offset in bytes. */
  trailer(crc32: number, size: number, position: number): void;
}

/**
 * A sequence of gzip members (RFC 1952 §2.2), decoded as they come. Bytes after the last one are treated as by gzip(1): zeros are
 * padding, others are ignored with a warning.
 */
export class GzipStream {
  readonly kernel: Kernel;
  readonly #header = new MemberHeaderReader();
  readonly #events: GzipStreamEvents;
  readonly #onOutput: (view: Uint8Array) => void;
  #phase = Phase.Header;
  /** Bytes of input and output since the start of the stream or the checkpoint. */
  received = 0;
  produced = 0;
  #limit = 0;
  stopped = false;
  readonly warnings: string[] = [];

  constructor(events: GzipStreamEvents, kernel = new Kernel()) {
    this.#events = events;
    this.kernel = kernel;
    this.#onOutput = (view) => {
      this.produced += view.length;
      events.output(view);
    };
  }

  /** Starts over at the header of a member; output stops at `limit` bytes first. */
  restart(limit: number): void {
    this.kernel.reset();
    this.#header.reset();
    this.#phase = Phase.Header;
    this.received = 0;
    this.produced = 0;
    this.#limit = limit;
    this.stopped = false;
    this.warnings.length = 0;
  }

  /** Starts over at a checkpoint, `startBit` bits into the first byte that will be pushed. Returns null or the fault. */
  restartAt(header: Uint8Array, window: Uint8Array, startBit: number, limit: number): string | null {
    this.restart(limit);
    const wrong = this.kernel.restore(header, window);
    this.kernel.skipBits(startBit);
    this.#phase = Phase.Blocks;
    return wrong;
  }

  push(input: Uint8Array): void {
    let at = 0;
    // Once even without input: the rest of a back-reference at a checkpoint may be the whole span.
    do {
      if (this.#phase === Phase.Garbage) {
        this.received += input.length - at;
        return;
      }
      const n = this.kernel.append(input, at);
      at += n;
      this.received += n;
      while (!this.stopped && this.#step());
    } while (at < input.length && !this.stopped);
    this.kernel.release();
  }

  /** The input is over: throws a FormatError if that leaves a member unfinished. */
  end(): void {
    switch (this.#phase) {
      case Phase.Header:
        if (this.received === 0) throw new FormatError('gzip header', 0, 'the input is empty');
        throw new FormatError('gzip header', this.received, 'truncated: the input ends within a member header');
      case Phase.Blocks:
        throw new FormatError('deflate stream', this.received, 'truncated: the input ends before the data does');
      case Phase.Trailer:
        throw new FormatError('gzip trailer', this.received, 'truncated: the input ends within the CRC and length');
      case Phase.Between: {
        const rest = this.kernel.unread();
        if (rest.some((byte) => byte !== 0)) this.#garbage(this.#position());
        break;
      }
    }
  }

  #position(): number {
    return this.kernel.bitPosition / 8;
  }

  /** Decodes as far as the input goes. False if it needs more. */
  #step(): boolean {
    switch (this.#phase) {
      case Phase.Header:
        return this.#readHeader();
      case Phase.Blocks:
        return this.#inflate();
      case Phase.Trailer:
        return this.#readTrailer();
      case Phase.Between: {
        const rest = this.kernel.unread();
        if (rest.length === 0) return false;
        if (rest[0] === 0) this.#phase = Phase.Padding;
        else if (rest[0] !== ID1) this.#garbage(this.#position());
        else if (rest.length < 2) return false;
        else if (rest[1] !== ID2) this.#garbage(this.#position());
        else {
          this.#header.reset();
          this.#phase = Phase.Header;
        }
        return true;
      }
      case Phase.Padding: {
        const rest = this.kernel.unread();
        const garbage = rest.findIndex((byte) => byte !== 0);
        if (garbage !== -1) this.#garbage(this.#position() + garbage);
        this.kernel.skip(rest.length);
        return false;
      }
      case Phase.Garbage:
        this.kernel.skip(this.kernel.unread().length);
        return false;
    }
  }

  #garbage(position: number): void {
    this.#phase = Phase.Garbage;
    this.warnings.push(`trailing garbage ignored from byte ${position} on`);
  }

  #readHeader(): boolean {
    const n = this.#header.read(this.kernel.unread());
    this.kernel.skip(n);
    if (this.#header.error !== null) throw new FormatError('gzip header', this.#position(), this.#header.error);
    if (!this.#header.done) return false;
    this.kernel.startStream();
    this.#phase = Phase.Blocks;
    return true;
  }

  #inflate(): boolean {
    const status = this.kernel.run(this.#limit - this.produced, this.#onOutput);
    if (this.produced === this.#limit) {
      this.#limit = this.#events.limit(this.produced);
      if (this.#limit === this.produced) this.stopped = true;
      return true;
    }
    if (status === NEED_INPUT) return false;
    if (status === DONE) this.#phase = Phase.Trailer;
    else if (status > CONTINUE) {
      throw new FormatError('deflate stream', Math.floor(this.#position()), kernelError(status));
    }
    return true;
  }

  #readTrailer(): boolean {
    const rest = this.kernel.unread();
    if (rest.length < TRAILER_BYTES) return false;
    const view = new DataView(rest.buffer, rest.byteOffset, TRAILER_BYTES);
    this.#events.trailer(view.getUint32(0, true), view.getUint32(4, true), this.#position());
    this.kernel.skip(TRAILER_BYTES);
    this.#phase = Phase.Between;
    return true;
  }
}
