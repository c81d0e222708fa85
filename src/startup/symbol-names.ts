import { hasAt, Words } from './text-search.js';

/** The functions of the C library that read files by themselves, or how their names begin. */
const READING = ['setlocale', 'localtime', 'tzset', 'getpw', 'getgr'] as const;
export type ReadingFunction = (typeof READING)[number];
/** Functions by which a program runs another one, and by which a library is loaded. */
const RUN = ['execv', 'execl', 'posix_spawn', 'popen\0', 'system\0'];
const LOAD = 'dlopen\0';
/** The C library defines all functions that lead to files, and calls none when it is loaded. glibc has the one symbol, musl defines the other. */
const [GLIBC, MUSL] = ['gnu_get_libc_release\0', '__libc_start_main\0'];

/** As names of symbols they stand between zeros. Linkers let a name be the end of a longer one, as in perl's `Perl_setlocale`. */
const NAMES = [
  ...[...READING, ...RUN, LOAD, GLIBC, MUSL].map((name) => ({ name, bytes: Buffer.from(`\0${name}`) })),
  { name: 'setlocale', bytes: Buffer.from('setlocale\0') },
];
/** How they begin. */
const WORDS = new Words(...new Set(NAMES.map(({ bytes }) => bytes.toString('latin1', 0, 4))));

/** Those of the names above that are in a table of names of symbols. */
export type SymbolNames = ReadonlySet<string>;

export function symbolNames(table: Uint8Array): SymbolNames {
  const found = new Set<string>();
  for (const hit of WORDS.find(table))
    for (const { name, bytes } of NAMES)
      if (!found.has(name) && hasAt(table, Words.position(hit), bytes)) found.add(name);
  return found;
}

/** Whether these are the symbols of a C library. Programs import what musl defines. */
function isLibc(names: SymbolNames, isProgram: boolean): boolean {
  return names.has(GLIBC) || (!isProgram && names.has(MUSL));
}

/** The functions that read files, separated by spaces, of a program or library. */
export function readingFunctions(names: SymbolNames, isProgram: boolean): string {
  return isLibc(names, isProgram) ? '' : READING.filter((name) => names.has(name)).join(' ');
}

/** What a file does with the names of other files, by the names of its symbols. */
export interface Uses {
  readonly runs: boolean;
  readonly loads: boolean;
}

/** Null if its constants name nothing of interest. */
export function usesOfNames(names: SymbolNames, isProgram: boolean): Uses | null {
  const loads = names.has(LOAD);
  if (!(isProgram || loads) || isLibc(names, isProgram)) return null;
  return { runs: isProgram && RUN.some((name) => names.has(name)), loads };
}
