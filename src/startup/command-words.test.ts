import { expect, it } from 'vitest';
import { commandWords } from './command-words.js';

const wordsOf = (...argv: string[]): string[] =>
  commandWords(argv).map(({ word, program }) => (program ? `${word}!` : word));

it('names the program, and what may be files among its arguments', () => {
  expect(wordsOf('ruby', '-w', '/app/main.rb')).toEqual(['ruby!', '/app/main.rb!']);
  expect(wordsOf('java', '-cp', '/a.jar:/lib/b.jar', '--config=/etc/x', '-I/usr/include', '-Dk=v', 'Main')).toEqual([
    ...['java!', '/a.jar', '/lib/b.jar', '/etc/x', '/usr/include', 'Main!'],
  ]);
});

it('reads the line of a shell, and only paths in other text', () => {
  expect(wordsOf('sh', '-c', 'gcc -o /tmp/main /app/main.c && exec /tmp/main')).toEqual(
    expect.arrayContaining(['sh!', 'gcc!', '/app/main.c!', '/tmp/main!']),
  );
  expect(wordsOf('python3', '-c', 'import os; open("/etc/passwd")')).toEqual(['python3!', '/etc/passwd']);
});

it('is bounded, whatever a process calls itself', () => {
  const many = Array.from({ length: 10_000 }, (_, i) => `/a/${i}`);
  expect(wordsOf(...many)).toHaveLength(64);
  expect(wordsOf(many.join(':').slice(0, 4096))).toHaveLength(64);
  expect(wordsOf('x'.repeat(5000), '', ' '.repeat(4096))).toEqual([]);
});
