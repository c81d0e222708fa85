import { byteAt, hasAt, Words } from '../text-search.js';

const NEWLINE = 0x0a;
const [BACKSLASH, PARENTHESIS, CLOSING] = [0x5c, 0x28, 0x29];
/** Bytes between the beginning of a line and its `import`. */
const MAX_MODULE = 256;
/** Longer statements than this are no import lists. */
const MAX_STATEMENT = 16 * 1024;
/** Lines that are searched upwards for the statement of an indented import's block; without one the import is a function's. */
const MAX_BLOCK_LINES = 200;
const MAX_NAMES = 256;
const [WORDS, IMPORT] = [new Words('impo'), Buffer.from('import')];
/** Blocks that do not run when the module is loaded. */
const NOT_AT_LOAD = /^(?:def|class|async|@|if\s+(?:\w+\.)?TYPE_CHECKING|if\s+__name__)\b|^@/;

/**
 * The imports that run when a Python module is loaded: those at its outermost level, and in blocks (`try`, `if`, `else`, `with`)
 * there, in the order of the text. Each is the module as written, with its leading dots, and the names imported from it, which
 * may be modules too: "numpy.core multiarray umath". The text is searched for words, not parsed: an import inside a string
 * counts as well.
 */
export function pythonImports(source: Buffer): string[] {
  const found: string[] = [];
  for (const hit of WORDS.find(source)) {
    const at = Words.position(hit);
    if (!hasAt(source, at, IMPORT)) continue;
    const after = byteAt(source, at + IMPORT.length);
    if (after !== 0x20 && after !== 0x09 && after !== 0x28) continue;
    const start = source.lastIndexOf(NEWLINE, at) + 1;
    if (at - start > MAX_MODULE) continue;
    const match = /^([ \t]*)(?:from[ \t]+([.\w]+)[ \t]+)?$/.exec(source.toString('latin1', start, at));
    if (match === null || (match[1] !== '' && !runsAtLoad(source, start))) continue;
    const list = namesAfter(source, at + IMPORT.length);
    if (match[2] !== undefined) found.push([match[2], ...list].join(' '));
    else found.push(...list);
  }
  return found;
}

/** The names of an import list: to the end of its line, of its parentheses, or of the last continued line. */
function namesAfter(source: Buffer, at: number): string[] {
  const last = Math.min(source.length, at + MAX_STATEMENT);
  const until = (byte: number, from: number): number => {
    const end = source.indexOf(byte, from);
    return end < 0 ? last : Math.min(end, last);
  };
  let end = until(NEWLINE, at);
  while (source[end - 1] === BACKSLASH || (source[end - 1] === 0x0d && source[end - 2] === BACKSLASH)) {
    if (end >= last) break;
    end = until(NEWLINE, end + 1);
  }
  let text = source.toString('latin1', at, end);
  if (text.trimStart().startsWith('(')) {
    text = source.toString('latin1', source.indexOf(PARENTHESIS, at) + 1, until(CLOSING, at)).replace(/#[^\n]*/g, '');
  } else text = text.replace(/[#;].*$/s, '').replaceAll('\\', '');
  return text
    .split(',')
    .map((part) => /^\s*([\w.]+)(?:\s|$)/.exec(part)?.[1] ?? '')
    .filter((name) => name !== '')
    .slice(0, MAX_NAMES);
}

/** Whether the block around the line at `start` runs when the module is loaded. */
function runsAtLoad(source: Buffer, start: number): boolean {
  let line = start;
  for (let i = 0; i < MAX_BLOCK_LINES && line > 0; i++) {
    const end = line - 1;
    line = end === 0 ? 0 : source.lastIndexOf(NEWLINE, end - 1) + 1;
    const first = source[line]!;
    // Indented and empty lines, comments, and lines that close a bracket or a string begin no block.
    if (line === end || first === 0x0d || ' \t#)]}"\''.includes(String.fromCharCode(first))) continue;
    return !NOT_AT_LOAD.test(source.toString('latin1', line, Math.min(end, line + 64)));
  }
  return line === 0;
}
