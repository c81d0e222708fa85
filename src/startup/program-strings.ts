import type { Uses } from './symbol-names.js';
import { findNames, MAX_NAME, Words } from './text-search.js';

/** Most bytes of names of one file: git has 2,800 names of 40 kB. */
const MAX_BYTES = 64 * 1024;
const NAME = Uint8Array.from({ length: 256 }, (_, byte) =>
  byte < 0x80 && /[\w.+@~-]/.test(String.fromCharCode(byte)) ? 1 : 0,
);
const [DASH, PATH] = [0x2d, 0x2f];
/**
 * Stand in the command lines of compilers, which are patterns (GCC's manual, "Spec Files"): behind a program's name, as in
 * "as %(asm_options) %i", and behind that of an object file or archive which the linker gets.
 */
const ARGUMENTS = new Words(' %(', '.o%s', '.a%s');
const [SUFFIX_BYTES, IS_PROGRAM] = [2, 0];
/** Paths below the directory that a program is installed in (GNU's "prefix"): "share/git-core/templates". */
const BELOW_PREFIX = new Words('\0sha', '\0lib');
const RELATIVE = /^(?:share|lib|libexec)(?:\/[\w.+-]+)+\/?$/;
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
    const isProgram = Words.number(hit) === IS_PROGRAM;
    const at = Words.position(hit) + (isProgram ? 0 : SUFFIX_BYTES);
    let start = at;
    while (start > 0 && at - start < MAX_NAME && NAME[bytes[start - 1]!] === 1) start--;
    const name = bytes.toString('latin1', start, at);
    if (name.length >= 2 && bytes[start] !== DASH) add(isProgram ? `${name}%` : name);
  }
  for (const hit of BELOW_PREFIX.find(constants)) {
    const start = Words.position(hit) + 1;
    const end = bytes.indexOf(0, start);
    const path = end < 0 || end - start > MAX_NAME ? '' : bytes.toString('latin1', start, end);
    if (RELATIVE.test(path)) add(path);
  }
  return [...found].join(' ');
}
