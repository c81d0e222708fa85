/** execve(2) reads at most this much of a script's first line. */
export const SCRIPT_LINE_BYTES = 256;
/** Scripts of one layer whose lines are kept: ten times those of a large distribution. A layer may have millions of files. */
const MAX_SCRIPTS = 65_536;
const [HASH, BANG, NEWLINE] = [0x23, 0x21, 0x0a];

/** A file that begins with "#!". */
export interface ScriptLine {
  /** Of the layer's tar. */
  readonly entry: number;
  /** Its first line, latin1. */
  readonly line: string;
}

/** Keeps the first lines of scripts while the files of a layer stream by. */
export class ScriptLines {
  readonly found: ScriptLine[] = [];
  #entry = -1;
  readonly #kept = Buffer.allocUnsafeSlow(SCRIPT_LINE_BYTES);
  #length = 0;
  #reading = false;

  /** A file whose first byte is `first`. */
  start(entry: number, first: number | undefined): void {
    this.end();
    this.#entry = entry;
    this.#length = 0;
    this.#reading = first === HASH;
  }

  data(view: Uint8Array): void {
    if (!this.#reading) return;
    const piece = view.subarray(0, SCRIPT_LINE_BYTES - this.#length);
    this.#kept.set(piece, this.#length);
    this.#length += piece.length;
    if (this.#length >= 2 && this.#kept[1] !== BANG) this.#reading = false;
    else if (this.#length === SCRIPT_LINE_BYTES || piece.includes(NEWLINE)) this.end();
  }

  end(): void {
    if (!this.#reading) return;
    this.#reading = false;
    const line = this.#kept.toString('latin1', 0, this.#length).split('\n')[0]!;
    if (line.startsWith('#!') && this.found.length < MAX_SCRIPTS) this.found.push({ entry: this.#entry, line });
  }
}
