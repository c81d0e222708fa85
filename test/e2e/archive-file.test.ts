import {
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ArchiveFile } from '../../src/check/index.js';
import { Clipctl } from '../support/clipctl.js';
import { writeImage } from '../support/images.js';
import { file, tar } from '../support/tar.js';

test('a file holds an open archive when its inode and its header say so, whenever it was used last', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'clip-archive-file-'));
  const at = (name: string): string => join(directory, name);
  const images = ['one', 'two'].map((text) => writeImage([tar(file('f', text))]));
  const clip = await Clipctl.create();
  for (const [i, { reference }] of images.entries()) await clip.ok('index', reference, '--out', at(`${i}.clip`));
  await clip.close();
  const archive = ArchiveFile.open(at('0.clip'));
  const isIn = (name: string): boolean => {
    const fd = openSync(at(name), 'r');
    try {
      return archive.isIn(fd);
    } finally {
      closeSync(fd);
    }
  };
  expect(isIn('0.clip')).toBe(true);
  utimesSync(at('0.clip'), 1, 1);
  expect(isIn('0.clip')).toBe(true);
  copyFileSync(at('0.clip'), at('copy.clip'));
  expect([isIn('copy.clip'), isIn('1.clip')]).toEqual([false, false]);
  // The same inode with another archive, and with none.
  writeFileSync(at('0.clip'), readFileSync(at('1.clip')));
  expect(isIn('0.clip')).toBe(false);
  writeFileSync(at('0.clip'), 'no archive');
  expect(isIn('0.clip')).toBe(false);
  archive.close();
  for (const image of images) image.remove();
  rmSync(directory, { recursive: true });
});
