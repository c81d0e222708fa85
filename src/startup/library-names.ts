import { Words } from './text-search.js';

/** What the names of libraries, and search paths relative to a file, have in them. */
const MARKS = new Words('.so', '$ORI', '${OR');
/** Longest name; it is also what is kept of one piece for the next. */
const MAX_NAME = 1024;
/** A hostile segment may have one in every four bytes. */
const MAX_NAMES = 65_536;

/**
 * The C strings in a string table that name libraries or their directories, by their offsets in the file. So a table of hundreds of
 * megabytes need not be kept until the dynamic section tells which of its names matter.
 */
export class LibraryNames {
  readonly #names = new Map<number, string>();
  #end = 0;
  #rest = Buffer.alloc(0);

  /** The next bytes of the file. */
  push(piece: Uint8Array): void {
    const before = this.#end - this.#rest.length;
    this.#end += piece.length;
    const bytes = Buffer.from(piece.buffer, piece.byteOffset, piece.length);
    // Names that lie in both pieces, then those of the new one.
    const both = Buffer.concat([this.#rest, bytes.subarray(0, MAX_NAME)]);
    if (this.#rest.length > 0) this.#search(both, before);
    this.#search(bytes, this.#end - piece.length);
    this.#rest = Buffer.from(piece.length < MAX_NAME ? both.subarray(-MAX_NAME) : bytes.subarray(-MAX_NAME));
  }

  #search(bytes: Buffer, offset: number): void {
    let last = -1;
    for (const hit of MARKS.find(bytes)) {
      const at = Words.position(hit);
      if (at < last || this.#names.size >= MAX_NAMES) continue;
      const start = bytes.lastIndexOf(0, at) + 1;
      last = bytes.indexOf(0, at);
      if (last < 0) return;
      // One without a zero before it may begin in the piece before: it was found there.
      const whole = start > 0 || offset === 0;
      if (whole && last - start <= MAX_NAME) this.#names.set(offset + start, bytes.toString('latin1', start, last));
    }
  }

  /** The name at an offset in the file; '' if it is none of these. */
  at(offset: number): string {
    return this.#names.get(offset) ?? '';
  }
}
