import { execFileSync } from 'node:child_process';
import { readFileSync, realpathSync } from 'node:fs';
import { basename } from 'node:path';
import { expect, test } from 'vitest';
import { file, tar } from '../../test/support/tar.js';
import { EntryColumns, TarParser } from '../tar/index.js';
import { type ElfNeeds, elfNeeds } from './elf.js';
import { type LayerReferences, ReferenceScanner } from './reference-scanner.js';

const PROGRAM = realpathSync('/bin/ls');
const LIBRARIES = [...execFileSync('ldd', [PROGRAM], { encoding: 'utf8' }).matchAll(/(\/\S+) \(/g)].map((m) => m[1]!);

/** What is found in a file that is there as a whole. */
function readElf(content: Uint8Array): ElfNeeds | null {
  const parse = elfNeeds();
  let next = parse.next();
  while (!next.done) next = parse.next(content.subarray(next.value.offset, next.value.offset + next.value.length));
  return next.value;
}

/** What is found in a tar that comes in pieces of `step` bytes, by path. */
function scan(bytes: Uint8Array, step: number): LayerReferences & { names: string[]; modules: Record<string, string> } {
  const entries = new EntryColumns();
  const name = ({ entry }: { entry: number }): string =>
    Buffer.from(entries.arena.subarray(entries.pathStart(entry), entries.pathEnd(entry))).toString();
  const modules: Record<string, string> = {};
  const scanner = new ReferenceScanner(entries, (entry, _language, { head }) => {
    modules[name({ entry })] = head.toString();
  });
  const parser = new TarParser({ entries, data: (entry, view) => scanner.data(entry, view) });
  for (let at = 0; at < bytes.length; at += step) parser.push(Uint8Array.from(bytes.subarray(at, at + step)));
  parser.finish();
  const found = scanner.finish();
  return { ...found, names: found.elf.map(name), modules };
}

test('programs and libraries say what a reader of the whole file finds, however the stream is cut', () => {
  const paths = [PROGRAM, ...LIBRARIES.map((path) => realpathSync(path))];
  const bytes = tar(
    file('short', '\x7fELF'),
    file('text', 'x'.repeat(9000)),
    file('broken', `\x7fELF${'\x02\x01\x01'}${'\xff'.repeat(9000)}`),
    ...paths.map((path) => file(path.slice(1), readFileSync(path))),
    file('cut', readFileSync(PROGRAM).subarray(0, 5000)),
  );
  const whole = scan(bytes, bytes.length);
  const wanted = paths.map((path) => readElf(readFileSync(path))!);
  expect(whole.elf.slice(0, paths.length).map(({ needs }) => needs)).toEqual(wanted);
  expect(wanted[0]!.needed).toContain('libc.so.6');
  expect(wanted[0]!.interpreter).toContain('ld-linux');
  expect(whole.names).toContain(PROGRAM.slice(1));
  expect(whole.names.map((name) => basename(name))).not.toContain('broken');
  for (const step of [509, 4096, 65_537]) expect(scan(bytes, step)).toEqual(whole);
});

test('the text of Python modules, to a limit and without their tests, and whether bytecode is checked', () => {
  const pyc = (flags: number): Buffer =>
    Buffer.concat([Buffer.from([0xa7, 13, 13, 10, flags, 0, 0, 0]), Buffer.alloc(90)]);
  const long = 'import a\n'.repeat(20_000);
  const bytes = tar(
    file('p/a.py', 'import b'),
    file('p/tests/a.py', 'import c'),
    file('p/long.py', long),
    file('p/empty.py', ''),
    file('p/x.pyc', pyc(3)),
    file('p/y.pyc', pyc(3)),
    file('p/z.pyc', pyc(0)),
  );
  for (const step of [7, 5000, bytes.length]) {
    const { modules, checked } = scan(bytes, step);
    expect(modules).toEqual({ 'p/a.py': 'import b', 'p/long.py': long.slice(0, 32 * 1024) });
    expect(checked).toBe(true);
  }
  expect(scan(tar(file('x.pyc', pyc(1)), file('y.pyc', pyc(3))), 100).checked).toBe(false);
});

test('the first lines of scripts, however the stream is cut', () => {
  const bytes = tar(
    file('a', '#!/bin/sh\nexec x\n'),
    file('b', '#!/usr/bin/env -S node --x'),
    file('c', '# no script'),
    file('d', '#'),
    file('e', `#!/${'x'.repeat(300)}\n`),
    file('f.py', '#!/usr/bin/python3\nimport a\n'),
  );
  for (const step of [1, 3, 600, bytes.length]) {
    const { scripts } = scan(bytes, step);
    expect(scripts.map(({ entry, line }) => [entry, line])).toEqual([
      [0, '#!/bin/sh'],
      [1, '#!/usr/bin/env -S node --x'],
      [4, `#!/${'x'.repeat(253)}`],
      [5, '#!/usr/bin/python3'],
    ]);
  }
});
