import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl } from '../support/clipctl.js';
import { eventually, health, type IndexedImage, indexedImage, isDead, listed } from '../support/mounted.js';

// A place whose name would break a table or control a terminal.

const NAME = 'two\nlines\tand \u001b[31mred';
const SHOWN = 'two\\012lines\\011and \\033[31mred';
let clip: Clipctl;
let image: IndexedImage;

beforeAll(async () => {
  clip = await Clipctl.create();
  image = await indexedImage(clip, 'one', 1, 1e5);
});
afterAll(async () => {
  image.remove();
  await clip.close();
});

test('ps prints one line per mount for any name of a place; --json and mount print the name unchanged', async () => {
  const place = await clip.place(NAME);
  expect((await clip.ok('mount', '--clip', image.archive, '--at', place)).stdout).toBe(`${place}\n`);
  const [line, ...rest] = (await clip.ok('ps')).stdout.trimEnd().split('\n');
  expect(rest).toEqual([]);
  expect(line!.split('\t')).toEqual([clip.path(SHOWN), expect.stringContaining('oci:'), image.archive]);
  expect((await listed(clip)).map((mount) => mount.mountPoint)).toEqual([place]);
  expect(readFileSync(`${place}/etc/name`, 'utf8')).toBe('image 1\n');
  const again = await clip.run(['mount', '--clip', image.archive, '--at', place]);
  expect([again.code, again.stderr.split('\n')[0]]).toEqual([
    EXIT_CODES.BUSY,
    expect.stringContaining(`/two lines\\011and`),
  ]);
  await clip.ok('umount', place);
  expect((await clip.ok('ps')).stdout).toBe('');
});

test('so does the list of mounts that a killed clipd leaves', async () => {
  const place = await clip.place(NAME);
  await clip.ok('mount', '--clip', image.archive, '--at', place);
  process.kill((await health(clip)).keeperPid, 'SIGKILL');
  await eventually(() => isDead(place));
  expect((await clip.ok('ps')).stderr.split('\n')[0]).toContain(`are dead: ${clip.path(SHOWN)}`);
  await clip.ok('umount', place);
});
