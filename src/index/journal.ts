/**
 * What one thread tells the other of a stretch of a layer, in the order in which it happened: a flat list of numbers, each
 * kind followed by its own. Plain numbers are what postMessage copies fastest.
 */
export type Journal = readonly number[];

enum Kind {
  /** Address and length of bytes of the tar in shared memory. */
  Output,
  /** Layer offset, bit offset in the blob, and CRC-32 of the span that ends here. */
  Boundary,
}

export class JournalWriter {
  #records: number[] = [];
  /** Where the last record may grow: the end of its bytes, and the index of its length. */
  #outputEnd = -1;
  #lengthAt = 0;

  get empty(): boolean {
    return this.#records.length === 0;
  }

  output(address: number, length: number): void {
    if (address === this.#outputEnd) this.#records[this.#lengthAt]! += length;
    else this.#lengthAt = this.#records.push(Kind.Output, address, length) - 1;
    this.#outputEnd = address + length;
  }

  boundary(layerOffset: number, bitOffset: number, crc32: number): void {
    this.#records.push(Kind.Boundary, layerOffset, bitOffset, crc32);
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
  output(address: number, length: number): void;
  boundary(layerOffset: number, bitOffset: number, crc32: number): void;
}

export function replay(journal: Journal, reader: JournalReader): void {
  for (let i = 0; i < journal.length; ) {
    const [a, b] = [journal[i + 1]!, journal[i + 2]!];
    if (journal[i] === Kind.Output) {
      reader.output(a, b);
      i += 3;
    } else {
      reader.boundary(a, b, journal[i + 3]!);
      i += 4;
    }
  }
}
