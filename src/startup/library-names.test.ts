import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { file, tar } from '../../test/support/tar.js';
import { EntryColumns, TarParser } from '../tar/index.js';
import { LibraryNames } from './library-names.js';
import { ReferenceScanner } from './reference-scanner.js';

const directory = mkdtempSync(join(tmpdir(), 'clip-names-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

test('names are found wherever the pieces are cut', () => {
  const text = Buffer.from(`\0one\0liba.so.1\0${'x'.repeat(2000)}.so\0$ORIGIN/../lib\0libb.so`);
  for (let cut = 0; cut < text.length; cut += 7) {
    const names = new LibraryNames();
    names.push(text.subarray(0, cut));
    names.push(text.subarray(cut, cut + 3));
    names.push(text.subarray(cut + 3));
    expect(names.at(text.indexOf('liba'))).toBe('liba.so.1');
    expect(names.at(text.indexOf('$ORIGIN'))).toBe('$ORIGIN/../lib');
    expect(names.at(text.indexOf('xxx'))).toBe('');
    expect(names.at(text.indexOf('libb'))).toBe('');
    expect(names.at(1)).toBe('');
  }
});

// libnode.so has 5 MB of names of symbols, libtorch_cpu.so 30 MB.
test('a library with more names of symbols than are kept tells what it needs', () => {
  const source = join(directory, 'a.c');
  const library = join(directory, 'liba.so');
  const name = (i: number): string => `symbol_${'long'.repeat(60)}_${i}`;
  const symbols = Array.from({ length: 24_000 }, (_, i) => `.globl ${name(i)}\n${name(i)}: .byte 0\n`);
  writeFileSync(source, 'double sin(double); double f(double x) { return sin(x); }\n');
  writeFileSync(join(directory, 'b.s'), `.data\n${symbols.join('')}.section .note.GNU-stack,"",@progbits\n`);
  const out = ['-o', library, source, join(directory, 'b.s')];
  execFileSync('gcc', ['-shared', '-fPIC', '-Wl,--no-as-needed', '-Wl,-rpath,$ORIGIN/x', ...out, '-lm']);
  const content = readFileSync(library);
  expect(content.length).toBeGreaterThan(6_000_000);
  const bytes = tar(file('a.so', content), file('b.py', 'import c\n'));
  for (const step of [65_521, 1 << 20, bytes.length]) {
    const entries = new EntryColumns();
    const scanner = new ReferenceScanner(entries, () => {});
    const parser = new TarParser({ entries, data: (entry, view) => scanner.data(entry, view) });
    for (let at = 0; at < bytes.length; at += step) parser.push(Uint8Array.from(bytes.subarray(at, at + step)));
    parser.finish();
    const { elf } = scanner.finish();
    expect(elf.map(({ needs }) => [needs.needed, needs.searchPath])).toEqual([
      [['libm.so.6', 'libc.so.6'], ['$ORIGIN/x']],
    ]);
  }
});
