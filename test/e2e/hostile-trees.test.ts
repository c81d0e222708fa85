import { writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { listFiles } from '../../src/archives/index.js';
import { EXIT_CODES, FormatError } from '../../src/bytes/index.js';
import { Clipctl } from '../support/clipctl.js';
import { readContents, sealed, withEntry } from '../support/forged.js';
import { type TestImage, writeImage } from '../support/images.js';
import { health } from '../support/mounted.js';
import { dir, file, tar } from '../support/tar.js';

// Archives of a few kilobytes whose trees have no end, or a million million paths.

const LEVELS = 40;
const CYCLE = /leads back to itself/;

let image: TestImage;
let clip: Clipctl;
const archives: Record<string, string> = {};

beforeAll(async () => {
  clip = await Clipctl.create();
  // Each directory has two others, "x" and "y"; in "y" there is nothing.
  const entries = [];
  let at = 'd';
  for (let i = 0; i < LEVELS; i++, at += '/x') entries.push(dir(at), dir(`${at}/y`));
  image = writeImage([tar(...entries, dir(at), file('f', 'file\n'))]);
  await clip.ok('index', '--image', image.reference, '--out', clip.path('honest.clip'));
  const honest = readContents(clip.path('honest.clip'));
  let doubled = honest.tree;
  for (let i = 0, path = 'd'; i < LEVELS; i++, path += '/x') doubled = withEntry(doubled, path, 'y', `${path}/x`);
  const trees = {
    'a directory in itself': withEntry(honest.tree, 'd', 'y', 'd'),
    'two to the forty paths': doubled,
  };
  for (const [name, tree] of Object.entries(trees)) {
    archives[name] = clip.path(`${name}.clip`);
    writeFileSync(archives[name], sealed({ ...honest, tree }));
  }
});
afterAll(async () => {
  image.remove();
  await clip.close();
});

describe.each(['a directory in itself', 'two to the forty paths'])('%s', (name) => {
  test('is listed to an end, with an error', async () => {
    for (const flags of [[], ['--json'], ['-l']]) {
      const ran = await clip.run(['ls', '-R', ...flags, archives[name]!]);
      expect([flags, ran.code, ran.stderr]).toEqual([flags, EXIT_CODES.BAD_FORMAT, expect.stringMatching(CYCLE)]);
    }
    const list = (): number => [...listFiles(archives[name]!, { recursive: true })].length;
    expect(list).toThrow(FormatError);
    expect(list).toThrow(CYCLE);
    expect((await clip.ok('ls', archives[name]!, '/d')).stdout.split('\n').filter(Boolean)).toEqual(['x', 'y']);
  });

  test('is not unpacked, and leaves nothing', async () => {
    const place = await clip.place(`unpacked ${name}`);
    const ran = await clip.run(['unpack', archives[name]!, place]);
    expect(ran.code).toBe(EXIT_CODES.BAD_FORMAT);
    expect(await readdir(place)).toEqual([]);
  });

  test('is prefetched to an end, and the server goes on', async () => {
    const place = await clip.place(`mounted ${name}`);
    await clip.ok('mount', '--clip', archives[name]!, '--at', place);
    const { serverPid } = await health(clip);
    for (const pattern of ['/', '/d', '/**/none', '/d/**/x']) {
      const ran = await clip.run(['prefetch', place, pattern]);
      expect([pattern, ran.code, ran.stderr]).toEqual([pattern, EXIT_CODES.BAD_FORMAT, expect.stringMatching(CYCLE)]);
    }
    await clip.ok('prefetch', place, '/f');
    await clip.ok('report', place, '--out', clip.path('report.html'));
    expect((await health(clip)).serverPid).toBe(serverPid);
    await clip.ok('umount', place);
  });
});
