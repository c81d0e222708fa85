const NEWLINE = 0x0a;
const TAB = 8;
/** A longer line was written by a minifier: its blocks cannot be told by their indentation. */
const MAX_LINE = 400;
/** Lines of one file that are searched upwards. Bounds the time for a file. */
const MAX_LINES = 8192;

/** The lines around code in a file that is indented as usual: the nearest one above with less indentation, and so on from that. */
export class EnclosingLines {
  readonly #source: Buffer;
  readonly #startsLater: (line: string) => boolean;
  readonly #opensNothing: RegExp;
  #lines = MAX_LINES;

  /**
   * @param startsLater  whether a line begins a block that does not run when the file is loaded, such as a function
   * @param opensNothing  comments, and what closes a block
   */
  constructor(source: Buffer, startsLater: (line: string) => boolean, opensNothing: RegExp) {
    this.#source = source;
    this.#startsLater = startsLater;
    this.#opensNothing = opensNothing;
  }

  /** Whether the code at `at` runs when the file is loaded. */
  runAtLoad(at: number): boolean {
    const source = this.#source;
    let line = source.lastIndexOf(NEWLINE, at - 1) + 1;
    if (at === 0) return true;
    if (at - line > MAX_LINE) return true;
    const before = source.toString('latin1', line, at);
    if (this.#startsLater(before)) return false;
    let indent = indentOf(before);
    while (indent > 0 && line > 0) {
      if (this.#lines-- <= 0) return false;
      const end = line - 1;
      line = end === 0 ? 0 : source.lastIndexOf(NEWLINE, end - 1) + 1;
      if (end - line > MAX_LINE) return true;
      const text = source.toString('latin1', line, end);
      const outer = indentOf(text);
      if (outer >= indent || !/\S/.test(text) || this.#opensNothing.test(text)) continue;
      if (this.#startsLater(text)) return false;
      indent = outer;
    }
    return true;
  }
}

/** In columns: a tab goes to the next stop, for lines that are indented by tabs stand among others that are by spaces. */
function indentOf(line: string): number {
  let columns = 0;
  for (let i = 0; line[i] === ' ' || line[i] === '\t'; i++)
    columns = line[i] === ' ' ? columns + 1 : columns - (columns % TAB) + TAB;
  return columns;
}
