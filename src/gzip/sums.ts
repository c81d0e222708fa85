import { crc32, crc32Combine, FormatError } from '../bytes/index.js';

/** The sums of a gzip member's output according to its trailer, and the trailer's place in the compressed stream. */
export interface MemberTrailer {
  readonly crc32: number;
  /** Modulo 2^32. */
  readonly size: number;
  readonly position: number;
}

/** CRC-32 of a stretch of output, grown piece by piece. */
class Sum {
  crc = 0;
  length = 0;

  add(crc: number, length: number): void {
    if (length === 0) return;
    this.crc = this.length === 0 ? crc : crc32Combine(this.crc, crc, length);
    this.length += length;
  }

  reset(): void {
    this.crc = 0;
    this.length = 0;
  }
}

/**
 * CRC-32 of a layer's spans, and of gzip members to check their trailers. The output is summed once, in pieces that end with a
 * span or a member; both sums are combined from these.
 */
export class OutputSums {
  #piece = 0;
  #pieceLength = 0;
  readonly #crc32: (view: Uint8Array, previous: number) => number;
  readonly #span = new Sum();
  readonly #member = new Sum();

  /** @param sum  as crc32(), which may know a faster way for the memory that the output lies in */
  constructor(sum: (view: Uint8Array, previous: number) => number = crc32) {
    this.#crc32 = sum;
  }

  push(view: Uint8Array): void {
    this.#piece = this.#crc32(view, this.#piece);
    this.#pieceLength += view.length;
  }

  /** As push(), of bytes that were summed elsewhere. */
  add(crc: number, length: number): void {
    this.#endPiece();
    this.#span.add(crc, length);
    this.#member.add(crc, length);
  }

  #endPiece(): void {
    this.#span.add(this.#piece, this.#pieceLength);
    this.#member.add(this.#piece, this.#pieceLength);
    this.#piece = 0;
    this.#pieceLength = 0;
  }

  /** A span ends here. Returns its CRC-32. */
  endSpan(): number {
    this.#endPiece();
    const { crc } = this.#span;
    this.#span.reset();
    return crc;
  }

  /** A member ends here. @throws FormatError if its trailer has other sums; it names neither, which would tell the content */
  endMember({ crc32: crc, size, position }: MemberTrailer): void {
    this.#endPiece();
    const { crc: found, length } = this.#member;
    this.#member.reset();
    if (found !== crc) throw new FormatError('gzip trailer', position, 'the CRC-32 of the output is another one');
    if (length % 2 ** 32 !== size)
      throw new FormatError('gzip trailer', position, 'the length of the output is another one');
  }
}
