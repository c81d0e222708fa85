/** The C library defines all functions that lead to files, and calls none when it is loaded. glibc has the one symbol, musl defines the other. */
const [GLIBC, MUSL] = [Buffer.from('gnu_get_libc_release\0'), Buffer.from('__libc_start_main\0')];

/** Whether a name begins like this. The zero before it is no part of what is searched: tables of symbols are full of them. */
export function hasName(text: Buffer, start: Buffer): boolean {
  for (let at = text.indexOf(start); at >= 0; at = text.indexOf(start, at + 1)) if (text[at - 1] === 0) return true;
  return false;
}

/** Whether these are the symbols of a C library. Programs import what musl defines. */
export function isLibc(text: Buffer, isProgram: boolean): boolean {
  return hasName(text, GLIBC) || (!isProgram && hasName(text, MUSL));
}

/** The functions of the C library that read files by themselves, or how their names begin. */
const READING = ['setlocale', 'localtime', 'tzset', 'getpw', 'getgr'] as const;
export type ReadingFunction = (typeof READING)[number];
const READING_NAMES = READING.map((name) => ({ name, bytes: Buffer.from(name) }));

/** Those among the symbols of a program or library, separated by spaces. */
export function readingFunctions(symbols: Uint8Array, isProgram: boolean): string {
  const text = Buffer.from(symbols.buffer, symbols.byteOffset, symbols.length);
  const found = READING_NAMES.filter(({ bytes }) => hasName(text, bytes)).map(({ name }) => name);
  return found.length === 0 || isLibc(text, isProgram) ? '' : found.join(' ');
}
