import { builtinModules } from 'node:module';
import { byteAt, hasAt, Words } from '../text-search.js';
import { EnclosingLines } from './enclosing-lines.js';

/** Modules that are named more often than this by one file are a bundler's table. */
const MAX_REQUESTS = 1024;
const MAX_SPECIFIER = 200;
const [SPACE, TAB, DOUBLE, SINGLE, BACKTICK, CLOSING] = [0x20, 0x09, 0x22, 0x27, 0x60, 0x29];
const [NEWLINE, RETURN, BRACE, OPEN_BRACE, STAR] = [0x0a, 0x0d, 0x7d, 0x7b, 0x2a];
const WORDS = new Words('requ', 'from', 'impo', 'expo');
const [REQUIRE, FROM, IMPORT] = [0, 1, 2];
const REST_OF_REQUIRE = Buffer.from('ire(');
const REST_OF_PORT = Buffer.from('rt');
const PORT_BYTES = 'import'.length;
/** An ES module begins so: its first line with `import` or `export` is before this. */
const MODULE_BYTES = 4096;
const BUILTIN = new Set(builtinModules);
/** Bytes that specifiers have: paths, scopes, "#internal". */
const SPECIFIER = Uint8Array.from({ length: 256 }, (_, byte) =>
  /[\w@./~#+:-]/.test(String.fromCharCode(byte)) && byte < 0x80 ? 1 : 0,
);
const WORD = Uint8Array.from({ length: 256 }, (_, byte) => (/[\w$.]/.test(String.fromCharCode(byte)) ? 1 : 0));

/** A line that opens a function: its block does not run when the file is loaded, unless the function is called at once. */
const FUNCTION = /=>|\bfunction\b|^\s*(?:(?:async|static|get|set)\s+)*[\w$#]+\s*\([^;]*\)\s*\{\s*$/;
const CALLED_AT_ONCE = /^\s*(?:[(!;+]|\}\s*\()/;
const OPENS_NOTHING = /^\s*(?:\/\/|\/?\*|[)\]}]+[,;]?\s*$)/;
const CONTROL = /^\s*(?:\}\s*)?(?:if|else|for|while|switch|try|catch|finally|do|with)\b/;

/**
 * The modules that a JavaScript file asks for when it is loaded, in the order of the text: "r" and what `require` is given, "i" and
 * what `import … from` or `export … from` is. Calls inside functions are left out, Node's own modules too. The text is searched for
 * words, not parsed: one inside a string or comment counts as well.
 */
export function nodeRequests(source: Buffer): string[] {
  const hits = WORDS.find(source);
  if (hits.length === 0) return [];
  const kind = kindOf(source, hits);
  const found = new Set<string>();
  const around = new EnclosingLines(source, opensFunction, OPENS_NOTHING);
  for (const hit of hits) {
    if (found.size >= MAX_REQUESTS) break;
    const at = Words.position(hit);
    if (kind === 'commonjs') {
      // An ES module has no `require`.
      if (Words.number(hit) !== REQUIRE || !hasAt(source, at + 4, REST_OF_REQUIRE)) continue;
      if (at > 0 && WORD[source[at - 1]!] === 1) continue;
      const name = specifierAt(source, at + 8, CLOSING);
      if (name !== null && around.runAtLoad(at)) found.add(`r${name}`);
    } else {
      const quote = importedAt(source, at, Words.number(hit), kind === 'dense');
      const name = quote < 0 ? null : specifierAt(source, quote);
      if (name !== null) found.add(`i${name}`);
    }
  }
  return [...found];
}

/** A file in which a line begins with `import` or `export` is an ES module; one without blanks behind them was written by a minifier. */
function kindOf(source: Buffer, hits: readonly number[]): 'commonjs' | 'module' | 'dense' {
  let [module, dense] = [false, false];
  for (const hit of hits) {
    const at = Words.position(hit);
    const end = at + PORT_BYTES;
    if (end > MODULE_BYTES) break;
    if (Words.number(hit) < IMPORT || !hasAt(source, at + 4, REST_OF_PORT)) continue;
    const before = byteAt(source, at - 1);
    const after = end < MODULE_BYTES ? byteAt(source, end) : 0;
    module ||= (at === 0 || before === NEWLINE || before === RETURN) && !isWordByte(after);
    dense ||= after === OPEN_BRACE || after === DOUBLE || after === SINGLE || after === STAR;
  }
  return module ? (dense ? 'dense' : 'module') : 'commonjs';
}

/**
 * Where the quote behind a `from` or `import` is; −1 if it is none that a module is named behind. With blanks as programs that format
 * source write them; without, as minifiers do, in `dense` files only.
 */
function importedAt(source: Buffer, at: number, word: number, dense: boolean): number {
  let end: number;
  if (word === FROM) {
    // Not `.from "`, `transform "`.
    const before = byteAt(source, at - 1);
    end = at + 4;
    if (before === BRACE && dense) return end;
    return before === SPACE && byteAt(source, end) === SPACE ? end + 1 : -1;
  }
  if (word !== IMPORT || !hasAt(source, at + 4, REST_OF_PORT)) return -1;
  if (at > 0 && WORD[source[at - 1]!] === 1) return -1;
  end = at + PORT_BYTES;
  return byteAt(source, end) === SPACE ? end + 1 : dense ? end : -1;
}

function afterBlanks(source: Buffer, at: number): number {
  let next = at;
  while (next < source.length && (source[next] === SPACE || source[next] === TAB)) next++;
  return next;
}

/** \w of a regular expression. */
function isWordByte(byte: number): boolean {
  return byte !== 0x2e && byte !== 0x24 && WORD[byte] === 1;
}

/** A quoted specifier after blanks, and `closing` after it; null if there is none, or it is a module of Node's own. */
function specifierAt(source: Buffer, at: number, closing: number | null = null): string | null {
  let start = afterBlanks(source, at);
  const quote = byteAt(source, start++);
  if (quote !== DOUBLE && quote !== SINGLE && quote !== BACKTICK) return null;
  let end = start;
  const last = Math.min(source.length, start + MAX_SPECIFIER);
  while (end < last && SPECIFIER[source[end]!] === 1) end++;
  if (end === start || byteAt(source, end) !== quote) return null;
  if (closing !== null && byteAt(source, afterBlanks(source, end + 1)) !== closing) return null;
  const name = source.toString('latin1', start, end);
  return name.startsWith('node:') || BUILTIN.has(name) ? null : name;
}

function opensFunction(line: string): boolean {
  return FUNCTION.test(line) && !CALLED_AT_ONCE.test(line) && !CONTROL.test(line);
}
