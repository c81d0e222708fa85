import type { MemberTrailer } from '../gzip/index.js';

/**
 * The decode worker's report on a part of a layer, in the order of the stream: a flat list of numbers, where each kind is followed
 * by its values. postMessage copies plain numbers fastest.
 */
export type Journal = readonly number[];

enum Kind {
  /** Address and length of bytes of the tar in shared memory, and their CRC-32 or NOT_SUMMED. */
  Output,
  /** Layer offset, and bit offset in the blob. */
  Boundary,
  /** CRC-32, size, and position in the blob. */
  Member,
}

/** In the place of a CRC-32: the reader of the bytes computes it. */
export const NOT_SUMMED = -1;

export class JournalWriter {
  #records: number[] = [];
  /** The last record may grow if its bytes are not summed: their end, and the index of their length. */
  #outputEnd = -1;
  #lengthAt = 0;

  output(address: number, length: number, crc32: number): void {
    if (crc32 === NOT_SUMMED && address === this.#outputEnd) this.#records[this.#lengthAt]! += length;
    else this.#lengthAt = this.#records.push(Kind.Output, address, length, crc32) - 2;
    this.#outputEnd = crc32 === NOT_SUMMED ? address + length : -1;
  }

  boundary(layerOffset: number, bitOffset: number): void {
    this.#records.push(Kind.Boundary, layerOffset, bitOffset);
    this.#outputEnd = -1;
  }

  member({ crc32, size, position }: MemberTrailer): void {
    this.#records.push(Kind.Member, crc32, size, position);
    this.#outputEnd = -1;
  }

  take(): Journal {
    const records = this.#records;
    this.#records = [];
    this.#outputEnd = -1;
    return records;
  }
}

export interface JournalReader {
  output(address: number, length: number, crc32: number): void;
  boundary(layerOffset: number, bitOffset: number): void;
  member(trailer: MemberTrailer): void;
}

export function replay(journal: Journal, reader: JournalReader): void {
  for (let i = 0; i < journal.length; ) {
    const [a, b, c] = [journal[i + 1]!, journal[i + 2]!, journal[i + 3]!];
    switch (journal[i]) {
      case Kind.Output:
        reader.output(a, b, c);
        i += 4;
        break;
      case Kind.Boundary:
        reader.boundary(a, b);
        i += 3;
        break;
      default:
        reader.member({ crc32: a, size: b, position: c });
        i += 4;
    }
  }
}
