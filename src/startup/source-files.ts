import type { EntryColumns } from '../tar/index.js';
import type { Language, SeenFile } from './languages/language.js';
import { LANGUAGES, languageOfPath, languageOfScript } from './languages/languages.js';
import { SCRIPT_LINE_BYTES } from './script-lines.js';
import { hasAt } from './text-search.js';

/** A module's tests are not loaded with it, and are as long as the module. */
const TESTS = ['/tests/', '/test/', '/__tests__/'].map((name) => Buffer.from(name));
const [HASH, BANG, SLASH] = [0x23, 0x21, 0x2f];
const MAX_HEAD = Math.max(...LANGUAGES.map(({ headBytes }) => headBytes));
const MAX_TAIL = Math.max(1, ...LANGUAGES.map(({ tailBytes }) => tailBytes));
/** Of a script whose language its first line tells. */
const SCRIPT_BYTES = Math.max(...LANGUAGES.filter((l) => l.interpreters !== null).map(({ headBytes }) => headBytes));

/** Whether a path, the bytes [start, end) of `arena`, leads through a directory of tests. */
function isTest(arena: Uint8Array, start: number, end: number): boolean {
  for (let at = start; at < end; at++) {
    // Other names of directories begin otherwise, nearly all of them.
    if (arena[at] !== SLASH || (arena[at + 1] !== TESTS[0]![1] && arena[at + 1] !== TESTS[2]![1])) continue;
    for (const name of TESTS) if (at + name.length <= end && hasAt(arena, at, name)) return true;
  }
  return false;
}

/** Keeps what languages look at of their files while the files of a layer stream by. */
export class SourceFiles {
  readonly #entries: EntryColumns;
  readonly #onFile: (entry: number, language: Language, file: SeenFile) => void;
  #entry = -1;
  /** Null: a script whose first line tells its language. */
  #language: Language | null = null;
  #reading = false;
  readonly #head = Buffer.allocUnsafeSlow(MAX_HEAD);
  #headLength = 0;
  #limit = 0;
  readonly #tail = Buffer.allocUnsafeSlow(MAX_TAIL);
  #tailLength = 0;
  #size = 0;

  /** @param onFile  gets each file. It is valid until that returns; the last one comes at `end` */
  constructor(entries: EntryColumns, onFile: (entry: number, language: Language, file: SeenFile) => void) {
    this.#entries = entries;
    this.#onFile = onFile;
  }

  /** A file that begins with these bytes, which `data` gets as well. False if it is of no language and no script. */
  start(entry: number, view: Uint8Array): boolean {
    this.end();
    const entries = this.#entries;
    const { arena } = entries;
    if (entries.extents(entry) !== null || view.length === 0) return false;
    const [start, end] = [entries.pathStart(entry), entries.pathEnd(entry)];
    this.#language = languageOfPath(arena, start, end);
    if (this.#language === null && view[0] !== HASH) return false;
    if (isTest(arena, start, end)) return true;
    this.#entry = entry;
    this.#headLength = 0;
    this.#tailLength = 0;
    this.#size = 0;
    this.#limit = this.#language?.headBytes ?? SCRIPT_BYTES;
    this.#reading = true;
    return true;
  }

  data(view: Uint8Array): void {
    if (!this.#reading) return;
    const size = this.#entries.size(this.#entry);
    if (this.#size === 0 && view.length >= size) {
      // Nearly every file, without a copy.
      this.#tell(Buffer.from(view.buffer, view.byteOffset, size));
      return;
    }
    this.#size += view.length;
    const room = this.#limit - this.#headLength;
    if (room > 0) {
      const piece = view.subarray(0, room);
      this.#head.set(piece, this.#headLength);
      this.#headLength += piece.length;
      if (this.#language === null && this.#headLength >= 2 && this.#head[1] !== BANG) this.#reading = false;
    }
    const tail = this.#language?.tailBytes ?? 0;
    if (tail > 0) this.#keepTail(view, tail);
    else if (this.#headLength === this.#limit) this.end();
  }

  #keepTail(view: Uint8Array, most: number): void {
    const piece = view.subarray(-most);
    const stay = Math.min(this.#tailLength, most - piece.length);
    this.#tail.copyWithin(0, this.#tailLength - stay, this.#tailLength);
    this.#tail.set(piece, stay);
    this.#tailLength = stay + piece.length;
  }

  /** The file has ended, or no more of it matters. */
  end(): void {
    if (this.#reading) this.#tell(null);
  }

  #tell(whole: Buffer | null): void {
    this.#reading = false;
    const head = (whole ?? this.#head.subarray(0, this.#headLength)).subarray(0, this.#limit);
    let language = this.#language;
    if (language === null) {
      if (head[1] !== BANG) return;
      const line = head.toString('latin1', 0, SCRIPT_LINE_BYTES).split('\n')[0]!;
      language = languageOfScript(line);
      if (language === null) return;
    }
    const { tailBytes, headBytes } = language;
    const tail = whole ?? this.#tail.subarray(0, this.#tailLength);
    this.#onFile(this.#entry, language, {
      head: head.subarray(0, headBytes),
      tail: tailBytes === 0 ? tail.subarray(0, 0) : tail.subarray(-tailBytes),
      size: this.#entries.size(this.#entry),
    });
  }
}
