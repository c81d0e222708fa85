import { builtinModules } from 'node:module';
import { EnclosingLines } from './enclosing-lines.js';

/** Modules that are named more often than this by one file are a bundler's table. */
const MAX_REQUESTS = 1024;
const MAX_SPECIFIER = 200;
const [SPACE, TAB, DOUBLE, SINGLE, BACKTICK, CLOSING] = [0x20, 0x09, 0x22, 0x27, 0x60, 0x29];
const REQUIRE = Buffer.from('require(');
/** With the quote: what is searched for is the faster found the longer it is. */
const IMPORTS = [" from '", ' from "', "import '", 'import "'].map((word) => Buffer.from(word));
/** Without blanks, as minifiers write them: also what comes first in their files. */
const DENSE_IMPORTS = ["}from'", '}from"', "import'", 'import"'].map((word) => Buffer.from(word));
const MODULE = /^(?:import|export)\b/m;
const DENSE = /(?:import|export)[{"'*]/;
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
  const found: { at: number; request: string }[] = [];
  const around = new EnclosingLines(source, opensFunction, OPENS_NOTHING);
  const imports = importsOf(source);
  // An ES module has no `require`.
  for (
    let at = imports.length > 0 ? -1 : source.indexOf(REQUIRE);
    at >= 0;
    at = source.indexOf(REQUIRE, at + REQUIRE.length)
  ) {
    if (found.length >= MAX_REQUESTS) break;
    if (at > 0 && WORD[source[at - 1]!] === 1) continue;
    const name = specifierAt(source, at + REQUIRE.length, CLOSING);
    if (name !== null && around.runAtLoad(at)) found.push({ at, request: `r${name}` });
  }
  for (const word of imports) {
    for (let at = source.indexOf(word); at >= 0; at = source.indexOf(word, at + word.length)) {
      if (found.length >= 2 * MAX_REQUESTS) break;
      // Not `.from "`, `transform "`.
      if (at > 0 && WORD[source[at]!] === 1 && WORD[source[at - 1]!] === 1) continue;
      const name = specifierAt(source, at + word.length - 1);
      if (name !== null) found.push({ at, request: `i${name}` });
    }
  }
  found.sort((a, b) => a.at - b.at);
  return [...new Set(found.map(({ request }) => request))];
}

function afterBlanks(source: Buffer, at: number): number {
  let next = at;
  while (source[next] === SPACE || source[next] === TAB) next++;
  return next;
}

/** What imports look like in a file; nothing in a file of CommonJS, which is most of them. */
function importsOf(source: Buffer): readonly Buffer[] {
  const first = source.toString('latin1', 0, MODULE_BYTES);
  if (!MODULE.test(first)) return [];
  return DENSE.test(first) ? [...IMPORTS, ...DENSE_IMPORTS] : IMPORTS;
}

/** A quoted specifier after blanks, and `closing` after it; null if there is none, or it is a module of Node's own. */
function specifierAt(source: Buffer, at: number, closing: number | null = null): string | null {
  let start = afterBlanks(source, at);
  const quote = source[start++];
  if (quote !== DOUBLE && quote !== SINGLE && quote !== BACKTICK) return null;
  let end = start;
  const last = Math.min(source.length, start + MAX_SPECIFIER);
  while (end < last && SPECIFIER[source[end]!] === 1) end++;
  if (end === start || source[end] !== quote) return null;
  if (closing !== null && source[afterBlanks(source, end + 1)] !== closing) return null;
  const name = source.toString('latin1', start, end);
  return name.startsWith('node:') || BUILTIN.has(name) ? null : name;
}

function opensFunction(line: string): boolean {
  return FUNCTION.test(line) && !CALLED_AT_ONCE.test(line) && !CONTROL.test(line);
}
