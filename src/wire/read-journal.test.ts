import { existsSync, mkdtempSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { OwnDirectory } from '../paths/index.js';
import { JOURNAL_DIRECTORY, kernelResends, ReadJournal } from './read-journal.js';

let root: OwnDirectory;
beforeEach(() => {
  root = OwnDirectory.open(mkdtempSync(join(tmpdir(), 'clip-journal-')));
});
afterEach(() => {
  rmSync(root.path, { recursive: true });
  root.close();
});

const read = (unique: number) => ({
  unique: BigInt(unique),
  nid: 40 + unique,
  offset: unique * 2 ** 33,
  size: 131_072,
});

test('the next server finds what was begun and not ended, in a journal that is its own from then on', () => {
  const first = ReadJournal.open(root, 7);
  expect(first.left).toEqual([]);
  for (const unique of [2, 4, 6]) first.journal.begin(read(unique));
  first.journal.end(4n);
  first.journal.end(4n);
  first.journal.begin(read(8)); // in the place of 4
  const second = ReadJournal.open(root, 7);
  expect(second.left).toEqual([read(2), read(8), read(6)]);
  expect(ReadJournal.open(root, 9).left).toEqual([]);
  second.journal.begin(read(10));
  second.journal.close();
  second.journal.begin(read(12));
  expect(ReadJournal.open(root, 7).left).toEqual([read(10)]);
  second.journal.remove();
  expect(existsSync(join(root.path, JOURNAL_DIRECTORY, '7'))).toBe(false);
});

test('a torn record is nobody’s read', () => {
  const { journal } = ReadJournal.open(root, 1);
  journal.begin(read(2));
  journal.begin(read(4));
  truncateSync(join(root.path, JOURNAL_DIRECTORY, '1'), 40);
  expect(ReadJournal.open(root, 1).left).toEqual([read(2)]);
});

test.each([
  ['6.18.44-fc-v595', true],
  ['6.9.0', true],
  ['6.8.0-45-generic', false],
  ['5.14.0-427.el9.x86_64', false],
  ['7.0-rc1', true],
])('%s sends again: %s', (kernel, resends) => {
  expect(kernelResends(kernel)).toBe(resends);
});
