import { execFileSync } from 'node:child_process';
import { readFileSync, realpathSync } from 'node:fs';
import { expect, test } from 'vitest';
import { type ElfNeeds, elfNeeds } from './elf.js';
import { programStrings } from './program-strings.js';
import { type SymbolNames, symbolNames, usesOfNames } from './symbol-names.js';

const symbols = (...names: string[]): SymbolNames => symbolNames(Buffer.from(`\0${names.join('\0')}\0`));
const BOTH = { runs: true, loads: true };
const strings = (text: string, uses = BOTH): string[] => {
  const found = programStrings(Buffer.from(text, 'latin1'), uses);
  return found === '' ? [] : found.split(' ');
};

test('a program names files by its constants: paths, programs, libraries, command lines', () => {
  const constants = [
    ...[
      '',
      'cc1',
      '/usr/lib/gcc/',
      'x %{!S:as %(options) %i',
      'libplug-in_1.so.2',
      'a sentence',
      '--option',
      '/x',
      '-',
      'cc1',
    ],
    ...['no/path', '%s/bin', '/etc/with space', '/opt/a+b@1~/c.conf', 'x', '\x80abc', 'ld\n', 'say %s', '-v %s', ''],
  ].join('\0');
  expect(strings(constants)).toEqual([...['cc1', '/usr/lib/gcc/', 'libplug-in_1.so.2', '/opt/a+b@1~/c.conf', 'as%']]);
  expect(strings(constants, { runs: false, loads: true })).toEqual([
    ...['/usr/lib/gcc/', 'libplug-in_1.so.2', '/opt/a+b@1~/c.conf'],
  ]);
  expect(strings(constants, { runs: false, loads: false })).toEqual(['/usr/lib/gcc/', '/opt/a+b@1~/c.conf']);
  expect(strings('')).toEqual([]);
  expect(strings('cut')).toEqual([]);
});

test('a compiler names what its linker gets, and a program paths below the directory that it is installed in', () => {
  const constants = [
    '',
    '%{pg:gcrt1.o%s;:crt1.o%s} crti.o%s',
    'libgcc.a%s',
    'share/x/templates',
    'libexec/x/',
    'library/',
    '',
  ];
  expect(strings(constants.join('\0'))).toEqual([
    ...['gcrt1.o', 'crt1.o', 'crti.o', 'libgcc.a', 'share/x/templates', 'libexec/x/'],
  ]);
  expect(strings(constants.join('\0'), { runs: false, loads: true })).toEqual([]);
});

test('names are bounded, and the search takes linear time', () => {
  const many = Array.from({ length: 100_000 }, (_, i) => `name${i}`).join('\0');
  expect(programStrings(Buffer.from(many), BOTH).length).toBeLessThan(64 * 1024);
  expect(strings(`${'x'.repeat(200)}\0/a/${'x'.repeat(200)}\0`)).toEqual([]);
  const started = performance.now();
  for (const text of [
    'x'.repeat(1 << 20),
    '\0'.repeat(1 << 20),
    '/a\0'.repeat(1 << 18),
    ' %('.repeat(1 << 18),
    `${'x'.repeat(300)} %(`.repeat(1 << 11),
  ])
    programStrings(Buffer.from(text), BOTH);
  expect(performance.now() - started).toBeLessThan(2000);
});

test('symbols tell whose constants name files', () => {
  expect(usesOfNames(symbols('printf', 'execvp'), true)).toEqual({ runs: true, loads: false });
  expect(usesOfNames(symbols('posix_spawnp', 'dlopen'), true)).toEqual({ runs: true, loads: true });
  expect(usesOfNames(symbols('printf'), true)).toEqual({ runs: false, loads: false });
  expect(usesOfNames(symbols('dlopen'), false)).toEqual({ runs: false, loads: true });
  expect(usesOfNames(symbols('execvp'), false)).toBeNull();
  expect(usesOfNames(symbols('dlopen', 'execv', 'gnu_get_libc_release'), true)).toBeNull();
  expect(usesOfNames(symbols('dlopen', '__libc_start_main'), false)).toBeNull();
});

function readElf(content: Uint8Array): ElfNeeds {
  const parse = elfNeeds();
  let next = parse.next();
  while (!next.done) next = parse.next(content.subarray(next.value.offset, next.value.offset + next.value.length));
  return next.value!;
}

test('gcc names its compiler, git its helpers; the C library names nothing', () => {
  const which = (name: string): string => realpathSync(execFileSync('which', [name], { encoding: 'utf8' }).trim());
  const of = (path: string): string[] => readElf(readFileSync(path)).strings.split(' ');
  expect(of(which('gcc'))).toEqual(expect.arrayContaining(['cc1', 'collect2', 'as%']));
  expect(of(which('git'))).toEqual(expect.arrayContaining(['git-remote-https', '/bin/sh']));
  const libc = /(\/\S*libc\.so\.6)/.exec(execFileSync('ldd', [which('ls')], { encoding: 'utf8' }))![1]!;
  expect(readElf(readFileSync(realpathSync(libc))).strings).toBe('');
});
