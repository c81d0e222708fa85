import { c } from './c.js';
import { config } from './config.js';
import { java } from './java.js';
import type { Language } from './language.js';
import { node } from './node.js';
import { perl } from './perl.js';
import { php } from './php.js';
import { python } from './python.js';
import { ruby } from './ruby.js';
import { shell } from './shell.js';

/** All languages. A file belongs to the first that has its ending. */
export const LANGUAGES: readonly Language[] = [python, node, ruby, perl, php, java, shell, c, config];

/** Endings by their last byte: most files have none of them. */
const BY_LAST_BYTE: { readonly ending: Uint8Array; readonly language: Language }[][] = Array.from(
  { length: 256 },
  () => [],
);
for (const language of LANGUAGES)
  for (const text of language.endings) {
    const ending = Buffer.from(text);
    BY_LAST_BYTE[ending.at(-1)!]!.push({ ending, language });
  }

/** The language of a file by its path, the bytes [start, end) of `arena`. */
export function languageOfPath(arena: Uint8Array, start: number, end: number): Language | null {
  for (const { ending, language } of BY_LAST_BYTE[arena[end - 1] ?? 0]!) {
    const at = end - ending.length;
    // "/package.json" is also the file "package.json" of the root.
    const whole = at === start - 1 && ending[0] === 0x2f;
    if (at < start && !whole) continue;
    let same = true;
    for (let i = whole ? 1 : 0; same && i < ending.length; i++) same = arena[at + i] === ending[i];
    if (same) return language;
  }
  return null;
}

/** The same of one path. */
export function languageOf(path: string): Language | null {
  const bytes = Buffer.from(path, 'latin1');
  return languageOfPath(bytes, 0, bytes.length);
}

/** The language of a script by its first line, "#!/usr/bin/env -S node --x". */
export function languageOfScript(line: string): Language | null {
  const [interpreter = '', ...words] = line.slice(2).trim().split(/\s+/);
  const program = /(^|\/)env$/.test(interpreter)
    ? (words.find((word) => !word.startsWith('-') && !word.includes('=')) ?? '')
    : interpreter;
  const name = program.slice(program.lastIndexOf('/') + 1);
  return LANGUAGES.find(({ interpreters }) => interpreters?.test(name)) ?? null;
}
