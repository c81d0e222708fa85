import { readFileSync, realpathSync } from 'node:fs';
import { expect, test } from 'vitest';
import { closureOf } from '../../test/support/language-links.js';
import { file, symlink, tar } from '../../test/support/tar.js';
import { treeOf } from '../../test/support/tree.js';
import { linkReadingFunctions } from './c-library.js';
import { type ElfFile, elfNeeds } from './elf.js';
import { Links } from './links.js';
import { readingFunctions, type SymbolNames, symbolNames } from './symbol-names.js';

const LOCALE = '/usr/lib/locale/C.utf8';
const PATHS = [
  ...['/bin/program', '/etc/passwd', '/etc/nsswitch.conf', '/usr/share/zoneinfo/UTC'],
  ...[
    `${LOCALE}/LC_CTYPE`,
    `${LOCALE}/LC_TIME`,
    `${LOCALE}/LC_MESSAGES/SYS_LC_MESSAGES`,
    '/usr/lib/locale/de_DE.utf8/LC_CTYPE',
  ],
  '/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache',
];
const GCONV = PATHS.at(-1)!;
const tree = treeOf(
  tar(
    ...PATHS.map((path) => file(path.slice(1), Buffer.from('x'))),
    symlink('etc/localtime', '/usr/share/zoneinfo/UTC'),
  ),
);

/** What a program that calls these functions leads to, directly or not. */
function ledTo(functions: string, environment: readonly string[] = [], from = '/bin/program'): string[] {
  const needs = { ...program('/bin/sh'), functions };
  const elf: ElfFile[] = [{ nid: tree.resolve('/bin/program'), path: '/bin/program', size: 1, layer: 0, needs }];
  const links = new Links();
  const image = { config: { config: { Env: environment } }, platform: { os: 'linux', architecture: 'amd64' } };
  linkReadingFunctions(links, elf, tree, image);
  const found = links.finish();
  if (found === null) return [];
  const pathOf = new Map(PATHS.map((path) => [tree.resolve(path), path]));
  const name = (at: number): string => pathOf.get(found.nid[at]!)!;
  const targets = Array.from({ length: found.count }, (_, i): [string, string[]] => [
    name(i),
    Array.from(found.target.subarray(found.firstTarget[i]!, found.firstTarget[i + 1]!), name),
  ]);
  return [...closureOf(new Map(targets), from)].sort();
}

function program(path: string): ElfFile['needs'] {
  const bytes = readFileSync(realpathSync(path));
  const parse = elfNeeds();
  let step = parse.next();
  while (!step.done) step = parse.next(bytes.subarray(step.value.offset, step.value.offset + step.value.length));
  return step.value!;
}

test('a program that sets its locale leads to all files of the locale, and to the table of character sets', () => {
  const usual = PATHS.filter((path) => path.startsWith(LOCALE)).concat(GCONV);
  expect(ledTo('setlocale')).toEqual(usual.sort());
  expect(ledTo('setlocale', ['LANG=C.UTF-8'])).toEqual(usual);
  expect(ledTo('setlocale', ['LC_ALL=fr_FR.UTF-8'])).toEqual(usual);
  expect(ledTo('setlocale', ['LANG=de_DE.UTF-8'])).toEqual(['/usr/lib/locale/de_DE.utf8/LC_CTYPE', GCONV].sort());
  expect(ledTo('setlocale', ['LANG=C.UTF-8', 'LC_ALL=POSIX'])).toEqual([]);
  expect(ledTo('')).toEqual([]);
});

test('whichever file of a locale is read first leads to the others', () => {
  for (const path of PATHS.filter((one) => one.startsWith(LOCALE))) {
    expect(ledTo('', [], path)).toHaveLength(3);
  }
});

test('the time zone and the lists of users and groups are read with what is linked to them', () => {
  expect(ledTo('localtime tzset')).toEqual(['/usr/share/zoneinfo/UTC']);
  expect(ledTo('getpw getgr')).toEqual(['/etc/nsswitch.conf', '/etc/passwd']);
});

test('the functions are found in programs, and not in the C library that has them', () => {
  const symbols = (...names: string[]): SymbolNames => symbolNames(Buffer.from(`\0${names.join('\0')}\0`));
  expect(readingFunctions(symbols('setlocale', 'localtime_r', 'getpwuid', 'not_getgr'), true)).toBe(
    'setlocale localtime getpw',
  );
  // Its own entry of the table ends another one's: perl's symbols, as ld writes them.
  expect(readingFunctions(symbols('Perl_setlocale'), true)).toBe('setlocale');
  expect(readingFunctions(symbols('setlocale_slow'), true)).toBe('setlocale');
  expect(readingFunctions(symbols('my_setlocale_slow'), true)).toBe('');
  expect(readingFunctions(symbols('setlocale', 'gnu_get_libc_release'), true)).toBe('');
  expect(readingFunctions(symbols('setlocale', '__libc_start_main'), false)).toBe('');
  expect(readingFunctions(symbols('setlocale', '__libc_start_main'), true)).toBe('setlocale');
  const ls = program('/bin/ls').functions.split(' ');
  expect(ls).toContain('setlocale');
  expect(ls).toContain('localtime');
});
