/** What the names of libraries, and search paths relative to a file, have in them. */
const MARKS = ['.so', '$ORIGIN', '${ORIGIN'].map((mark) => Buffer.from(mark));
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
    const bytes = Buffer.concat([this.#rest, piece]);
    const offset = this.#end - this.#rest.length;
    this.#end += piece.length;
    for (const mark of MARKS) {
      for (let at = bytes.indexOf(mark); at >= 0 && this.#names.size < MAX_NAMES; at = bytes.indexOf(mark, at + 1)) {
        const start = bytes.lastIndexOf(0, at) + 1;
        const end = bytes.indexOf(0, at);
        if (end < 0) break;
        if (end - start <= MAX_NAME) this.#names.set(offset + start, bytes.toString('latin1', start, end));
        at = end;
      }
    }
    this.#rest = bytes.subarray(-Math.min(MAX_NAME, bytes.length));
  }

  /** The name at an offset in the file; '' if it is none of these. */
  at(offset: number): string {
    return this.#names.get(offset) ?? '';
  }
}
