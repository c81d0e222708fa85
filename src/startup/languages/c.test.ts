import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { closureOf, linksOf } from '../../../test/support/language-links.js';
import { c } from './c.js';

test('sources and headers lead to what they include, beside them or where compilers look', () => {
  const { links } = linksOf(c, {
    '/app/main.c': '#include <stdio.h>\n  #  include "lib/a.h"\n// #include <no.h>\nint include;\n#include MACRO\n',
    '/app/lib/a.h': '#ifndef A\n#include "b.h"\n#include <stddef.h>\n#include "../../etc/c.h"\n#endif\n',
    '/app/lib/b.h': '#include "stdio.h"\n#include "missing.h"\n#include <a.h>\n',
    '/etc/c.h': '',
    '/usr/include/stdio.h': '#include <bits/types.h>\n#include <sys/cdefs.h>',
    '/usr/include/x86_64-linux-gnu/bits/types.h': '',
    '/usr/include/sys/cdefs.h': '',
    '/usr/include/no.h': '',
    '/usr/include/stdc-predef.h': '',
    '/usr/include/stddef.h': '',
    '/usr/lib/gcc/x86_64-linux-gnu/12/include/stddef.h': '',
  });
  expect(Object.fromEntries(links)).toEqual({
    '/app/main.c': ['/usr/include/stdc-predef.h', '/usr/include/stdio.h', '/app/lib/a.h'],
    '/app/lib/a.h': ['/app/lib/b.h', '/usr/lib/gcc/x86_64-linux-gnu/12/include/stddef.h', '/etc/c.h'],
    '/app/lib/b.h': ['/usr/include/stdio.h'],
    '/usr/include/stdio.h': ['/usr/include/x86_64-linux-gnu/bits/types.h', '/usr/include/sys/cdefs.h'],
  });
});

test('all headers are found that the compiler of this machine reads', () => {
  const directory = mkdtempSync(join(tmpdir(), 'clip-c-'));
  try {
    const main = join(directory, 'main.c');
    const text =
      '#include <stdio.h>\n#include <stdlib.h>\n#include <pthread.h>\n#include <sys/socket.h>\n#include <linux/fs.h>\n';
    writeFileSync(main, text);
    const rule = execFileSync('gcc', ['-M', main], { encoding: 'utf8' });
    const read = rule
      .replaceAll('\\\n', ' ')
      .split(/\s+/)
      .filter((word) => word.startsWith('/') && word !== main);
    const headers = read.map((path) => realpathSync(path));
    const files = Object.fromEntries(headers.map((path) => [path, readFileSync(path, 'latin1')]));
    const found = closureOf(linksOf(c, { ...files, '/app/main.c': text }).links, '/app/main.c');
    expect(headers.length).toBeGreaterThan(30);
    expect([...found].sort()).toEqual([...new Set(headers)].sort());
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test('an include is what the standard says, however it is spaced', () => {
  // C11, 6.10 and 6.10.2: a line of "#", "include" and a name in quotes or angle brackets, with blanks between them.
  const oracle = /^[ \t]*#[ \t]*include[ \t]*([<"])([\w./+-]{1,200})[>"]/;
  const pieces = [
    ['', '\t ', 'x', ' '.repeat(290)],
    ['#', '', '# #'],
    ['', ' '],
    ['include', 'includ', 'include_next', 'xinclude'],
    ['', '\t \t'],
    ['<', '"', "'"],
    ['a.h', 'sys/a-b+c.h', '', 'a b', 'n'.repeat(200), 'n'.repeat(201)],
    ['>', '"', '', '\r'],
  ];
  let lines = [''];
  for (const piece of pieces) lines = lines.flatMap((line) => piece.map((next) => line + next));
  let found = 0;
  for (const line of lines) {
    const match = oracle.exec(line.slice(0, 300));
    const wanted = match === null ? null : [`${match[1]}${match[2]}`];
    for (const text of [line, `int a;\n${line}\nint b;`]) {
      const head = Buffer.from(text);
      expect(c.scan({ head, tail: head.subarray(0, 0), size: head.length })).toEqual(wanted);
    }
    if (wanted !== null) found++;
  }
  expect(found).toBe(96);
});

test('the time for a file is bounded, whatever it is', () => {
  const started = performance.now();
  const texts = [
    '#include <a',
    '#include '.repeat(10),
    'incl',
    '#incl\n',
    `#${' '.repeat(280)}include <`,
    '# include "a.h"\n',
  ];
  for (const text of texts) {
    const head = Buffer.from(text.repeat(Math.ceil(32_768 / text.length)).slice(0, 32_768));
    c.scan({ head, tail: Buffer.alloc(0), size: head.length });
  }
  expect(performance.now() - started).toBeLessThan(2000);
});
