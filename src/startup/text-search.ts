import { readFileSync } from 'node:fs';
import { wasmExports } from '../bytes/index.js';

/** Places in the memory of assembly/search.ts, and the longest text that it takes at once: a part of it stays in the processor's cache. */
const [KINDS, TEXT, MAX_TEXT] = [1024, 2048, 256 * 1024];
/** So much is read behind a text. */
const PADDING = 32;
const HITS = TEXT + MAX_TEXT + PADDING;
/** With this number of numbers found there may be more. */
const FULL = MAX_TEXT / 4 - 1;
const MAX_WORDS = 16;
const WORD_BYTES = 64;
/** Longest name that is found. */
export const MAX_NAME = 160;

interface Searcher {
  readonly bytes: Uint8Array;
  readonly hits: Uint32Array;
  find(end: number, count: number, offset: number): number;
  names(end: number, any: boolean, library: boolean): number;
}

let made: Searcher | undefined;
/** The words whose table is in the memory. */
let loaded: Words | undefined;

function searcher(): Searcher {
  if (made !== undefined) return made;
  const { memory, find, names } = wasmExports(readFileSync(new URL('./search.wasm', import.meta.url))) as {
    memory: { buffer: ArrayBuffer };
  } & Pick<Searcher, 'find' | 'names'>;
  const bytes = new Uint8Array(memory.buffer);
  for (let byte = 0; byte < 0x80; byte++)
    if (/[\w.+@~/-]/.test(String.fromCharCode(byte))) bytes[KINDS + byte] = byte === 0x2f ? 2 : 1;
  made = { bytes, hits: new Uint32Array(memory.buffer, HITS, FULL + 1), find, names };
  return made;
}

/** Puts as much of a text into the memory as there is room for. Returns its end in the memory. */
function fill(bytes: Uint8Array, text: Uint8Array, from: number): number {
  const piece = from === 0 && text.length <= MAX_TEXT ? text : text.subarray(from, from + MAX_TEXT);
  bytes.set(piece, TEXT);
  const end = TEXT + piece.length;
  bytes.fill(0, end, end + PADDING);
  return end;
}

/** Words of two to four bytes that are looked for together, in one pass over a text. */
export class Words {
  readonly #table: Uint8Array;
  readonly #count: number;
  /** Of the two bytes by which the places are chosen that are looked at closely: words begin alike more often than they go on. */
  readonly #offset: number;

  constructor(...words: readonly string[]) {
    this.#count = words.length;
    this.#offset = words.every(({ length }) => length > 2) ? 1 : 0;
    this.#table = new Uint8Array(WORD_BYTES * Math.min(MAX_WORDS, words.length));
    for (const [i, word] of words.entries()) {
      const bytes = Buffer.from(word, 'latin1');
      const at = i * WORD_BYTES;
      this.#table.fill(bytes[this.#offset]!, at, at + 16);
      this.#table.fill(bytes[this.#offset + 1]!, at + 16, at + 32);
      this.#table.set(bytes, at + 32);
      this.#table.fill(0xff, at + 36, at + 36 + bytes.length);
    }
  }

  /** Of a hit: its place in the text. */
  static position(hit: number): number {
    return Math.floor(hit / MAX_WORDS);
  }

  /** Of a hit: which of the words it is. */
  static number(hit: number): number {
    return hit % MAX_WORDS;
  }

  /** Where the words are, in the order of the text: see `position` and `number`. */
  find(text: Uint8Array): number[] {
    const { bytes, hits, find } = searcher();
    if (loaded !== this) bytes.set(this.#table);
    loaded = this;
    const found: number[] = [];
    for (let from = 0; from < text.length; ) {
      const length = fill(bytes, text, from) - TEXT;
      const count = find(TEXT + length, this.#count, this.#offset);
      const last = from + length === text.length;
      // A word that the end of a piece cuts begins the next piece.
      const limit = last || count >= FULL ? length : length - 3;
      for (let i = 0; i < count; i++) if (hits[i]! >>> 4 < limit) found.push(from * MAX_WORDS + hits[i]!);
      if (count >= FULL) from += (hits[count - 1]! >>> 4) + 1;
      else from += limit;
    }
    return found;
  }
}

/**
 * Calls back for each C string that looks like the name of a file, with its beginning and end: absolute paths of two parts and more; with
 * `any` also names without a slash, with `library` those of them that begin with "l".
 */
export function findNames(
  text: Uint8Array,
  any: boolean,
  library: boolean,
  onName: (start: number, end: number) => void,
): void {
  const { bytes, hits, names } = searcher();
  for (let from = 0; from < text.length; ) {
    const length = fill(bytes, text, from) - TEXT;
    const count = names(TEXT + length, any, library);
    for (let i = 0; i < count; i += 2) onName(from + hits[i]!, from + hits[i + 1]!);
    if (count >= FULL) from += hits[count - 1]! + 1;
    else if (from + length === text.length) return;
    else from += Math.max(bytes.lastIndexOf(0, TEXT + length - 1) - TEXT + 1, length - MAX_NAME - 1);
  }
}

/** 0 outside of the text. V8 throws away what it has compiled of a function that reads there for the first time. */
export function byteAt(text: Uint8Array, at: number): number {
  return at >= 0 && at < text.length ? text[at]! : 0;
}

/** Whether the text has this at a place. */
export function hasAt(text: Uint8Array, at: number, what: Uint8Array): boolean {
  if (at + what.length > text.length) return false;
  for (let i = 0; i < what.length; i++) if (text[at + i] !== what[i]) return false;
  return true;
}
