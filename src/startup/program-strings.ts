import type { Uses } from './symbol-names.js';
import { findNames, MAX_NAME, Words } from './text-search.js';

/** Most bytes of names of one file: git has 2,800 names of 40 kB. */
const MAX_BYTES = 64 * 1024;
const NAME = Uint8Array.from({ length: 256 }, (_, byte) =>
  byte < 0x80 && /[\w.+@~-]/.test(String.fromCharCode(byte)) ? 1 : 0,
);
const [DASH, PATH] = [0x2d, 0x2f];
/** Stands behind a program's name in the command lines of compilers, which are patterns: "as %(asm_options) %i" (GCC, "Specs"). */
const ARGUMENTS = new Words(' %(');
const LIBRARY = /^lib[\w.+-]*\.so(?:\.[\w.]+)?$/;

/**
 * Names of files among a program's constants: C strings that are an absolute path; in a program that runs others also names without a
 * directory, and those in patterns of command lines with a "%" behind them; in a program or library that loads others the names of
 * libraries. Separated by spaces, each once.
 */
export function programStrings(constants: Uint8Array, { runs, loads }: Uses): string {
  const found = new Set<string>();
  const bytes = Buffer.from(constants.buffer, constants.byteOffset, constants.length);
  let room = MAX_BYTES;
  const add = (string: string): void => {
    if (string.length < room && !found.has(string)) {
      found.add(string);
      room -= string.length + 1;
    }
  };
  findNames(constants, runs, loads, (start, end) => {
    const name = bytes.toString('latin1', start, end);
    if (runs || bytes[start] === PATH || LIBRARY.test(name)) add(name);
  });
  if (!runs) return [...found].join(' ');
  for (const hit of ARGUMENTS.find(constants)) {
    const at = Words.position(hit);
    let start = at;
    while (start > 0 && at - start < MAX_NAME && NAME[bytes[start - 1]!] === 1) start--;
    if (at - start >= 2 && bytes[start] !== DASH) add(`${bytes.toString('latin1', start, at)}%`);
  }
  return [...found].join(' ');
}
