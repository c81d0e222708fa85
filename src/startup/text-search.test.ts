import fc from 'fast-check';
import { expect, test } from 'vitest';
import { findNames, Words } from './text-search.js';

/** With a short one, and without. */
const LISTS = [
  ['requ', '\0ex', 'ab', ' %('],
  ['requ', '\0ex', 'aba', ' %('],
];
const SEARCHES = LISTS.map((list) => new Words(...list));

const wordsIn = (text: Buffer): number[][] => SEARCHES.map((words) => words.find(text));

/** By `indexOf`, word by word. */
const slowWords = (text: Buffer): number[][] => LISTS.map((list) => slowly(text, list));

function slowly(text: Buffer, list: readonly string[]): number[] {
  const found: number[] = [];
  for (const [i, word] of list.entries())
    for (let at = text.indexOf(word, 0, 'latin1'); at >= 0; at = text.indexOf(word, at + 1, 'latin1'))
      found.push(at * 16 + i);
  return found.sort((a, b) => a - b);
}

function slowNames(text: Buffer, any: boolean, library: boolean): string[] {
  const strings = text.toString('latin1').split('\0').slice(0, -1);
  return strings.filter((string) => {
    if (!/^[\w.+@~/-]{2,160}$/.test(string)) return false;
    if (string.startsWith('/')) return string.indexOf('/', 1) > 0;
    return !/^-|\//.test(string) && (any || (library && string.startsWith('l')));
  });
}

const namesIn = (text: Buffer, any: boolean, library: boolean): string[] => {
  const found: string[] = [];
  findNames(text, any, library, (start, end) => found.push(text.toString('latin1', start, end)));
  return found;
};

const pieces = fc.array(
  fc.constantFrom('requ', 'req', '\0', '\0ex', 'a', 'b', ' %(', '%', '/usr', '/', 'libx', '-', 'é', 'x'.repeat(161)),
  { maxLength: 60 },
);

test('words and names are those that a search one by one finds', () => {
  fc.assert(
    fc.property(pieces, fc.boolean(), fc.boolean(), (parts, any, library) => {
      const text = Buffer.from(parts.join(''), 'latin1');
      expect(wordsIn(text)).toEqual(slowWords(text));
      expect(namesIn(text, any, library)).toEqual(slowNames(text, any, library));
    }),
    { numRuns: 2000 },
  );
});

test('words and names are found across the pieces of a long text, and nothing that was there before', () => {
  const piece = 256 * 1024;
  for (let shift = 0; shift < 6; shift++) {
    const text = Buffer.alloc(2 * piece + 40, 'x');
    text.write('requ', piece - shift);
    text.write('\0/usr/lib\0', piece - 3 * shift);
    text.write('requ', 2 * piece - shift + 2);
    text.write('\0libc\0', text.length - 6);
    expect(wordsIn(text)).toEqual(slowWords(text));
    expect(namesIn(text, true, false)).toEqual(slowNames(text, true, false));
  }
  expect(wordsIn(Buffer.from('re'))).toEqual([[], []]);
  expect(namesIn(Buffer.from('/usr/li'), true, true)).toEqual([]);
});

test('a text with more words and names than there is room for gives them all', () => {
  for (const unit of ['ab', 'aba\0', '\0exab', 'ab\0ab\0\0\0']) {
    const text = Buffer.from(unit.repeat(200_000));
    expect(wordsIn(text)).toEqual(slowWords(text));
    expect(namesIn(text, true, false)).toEqual(slowNames(text, true, false));
  }
});
