import { hasName, isLibc } from './symbol-names.js';

/** Longest name, and most bytes of names, of one file: git has 2,800 names of 40 kB. */
const MAX_STRING = 160;
const MAX_BYTES = 64 * 1024;
/** Kinds of bytes: in a name, in a path, in neither. */
const [NEITHER, NAME, SLASH] = [0, 1, 2];
const KIND = Uint8Array.from({ length: 256 }, (_, byte) => {
  if (byte === 0x2f) return SLASH;
  return byte < 0x80 && /[\w.+@~-]/.test(String.fromCharCode(byte)) ? NAME : NEITHER;
});
const [DASH, PATH, L] = [0x2d, 0x2f, 0x6c];
/** Stands behind a program's name in the command lines of compilers, which are patterns: "as %(asm_options) %i" (GCC, "Specs"). */
const ARGUMENTS = Buffer.from(' %(');
/** Functions by which a program runs another one, and by which a library is loaded. As names of symbols they stand between zeros. */
const RUN = ['execv', 'execl', 'posix_spawn', 'popen\0', 'system\0'].map((name) => Buffer.from(name));
const LOAD = Buffer.from('dlopen\0');
const LIBRARY = /^lib[\w.+-]*\.so(?:\.[\w.]+)?$/;

/** What a file does with the names of other files, by the names of its symbols. */
export interface Uses {
  readonly runs: boolean;
  readonly loads: boolean;
}

/** Null if its constants name nothing of interest. */
export function usesOfNames(symbols: Uint8Array, isProgram: boolean): Uses | null {
  const text = Buffer.from(symbols.buffer, symbols.byteOffset, symbols.length);
  const loads = hasName(text, LOAD);
  if (!(isProgram || loads) || isLibc(text, isProgram)) return null;
  return { runs: isProgram && RUN.some((name) => hasName(text, name)), loads };
}

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
  const size = bytes.length;
  for (let start = 0, end = 0; end < size; end++) {
    if (bytes[end] !== 0) continue;
    const length = end - start;
    if (length >= 2 && length <= MAX_STRING) {
      // From its end, where most constants that are no names differ from one.
      let at = end - 1;
      let slashes = 0;
      while (at >= start && KIND[bytes[at]!] !== NEITHER) {
        if (KIND[bytes[at]!] === SLASH) slashes++;
        at--;
      }
      if (at < start) {
        if (bytes[start] === PATH) {
          if (slashes > 1) add(bytes.toString('latin1', start, end));
        } else if (slashes === 0 && bytes[start] !== DASH && (runs || (loads && bytes[start] === L))) {
          const name = bytes.toString('latin1', start, end);
          if (runs || LIBRARY.test(name)) add(name);
        }
      }
    }
    start = end + 1;
  }
  if (!runs) return [...found].join(' ');
  for (let at = bytes.indexOf(ARGUMENTS); at >= 0; at = bytes.indexOf(ARGUMENTS, at + 1)) {
    let start = at;
    while (start > 0 && at - start < MAX_STRING && KIND[bytes[start - 1]!] === NAME) start--;
    if (at - start >= 2 && bytes[start] !== DASH) add(`${bytes.toString('latin1', start, at)}%`);
  }
  return [...found].join(' ');
}
