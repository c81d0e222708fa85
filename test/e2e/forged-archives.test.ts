import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ArchiveContents } from '../../src/archive/index.js';
import { Clipctl } from '../support/clipctl.js';
import {
  FORGED_RULE,
  type Forgery,
  forgeries,
  HONEST_RULE,
  layerToForge,
  RULES,
  readContents,
  sealed,
} from '../support/forged.js';
import { type TestImage, writeImage } from '../support/images.js';
import { readDirect, sha256Of } from '../support/mounted.js';

// Archives with right CRCs and digests and other content, mounted beside an honest archive of the same layers: whatever a forged
// archive shows of itself, the honest mount shows the image.

const FILES = ['before', 'etc/sudoers', 'bin/tool', 'empty', 'large'];
let image: TestImage;
let honest: ArchiveContents;
let all: Forgery[];
let expected: ReadonlyMap<string, string>;
let archives: Clipctl;
let clip: Clipctl;

beforeAll(async () => {
  archives = await Clipctl.create();
  image = writeImage([layerToForge()]);
  await archives.ok('index', '--image', image.reference, '--out', archives.path('honest.clip'), '--checkpoint', '1');
  honest = readContents(archives.path('honest.clip'));
  all = forgeries(honest, readFileSync(image.layout.blobPath(honest.image.layers[0]!.digest)));
  for (const [i, { contents }] of all.entries()) writeFileSync(archives.path(`${i}.clip`), sealed(contents));
  // By a clipd that has seen no other archive.
  const place = await archives.place('honest');
  await archives.ok('mount', '--clip', archives.path('honest.clip'), '--at', place);
  expect(readFileSync(`${place}/etc/sudoers`, 'utf8')).toBe(RULES);
  expected = new Map(FILES.map((path) => [path, sha256Of(readFileSync(`${place}/${path}`))]));
  await archives.ok('umount', place);
});
afterAll(async () => {
  image.remove();
  await archives.close();
});
beforeEach(async () => {
  clip = await Clipctl.create();
});
afterEach(async () => {
  await clip.close();
});

async function mount(archive: string, name: string): Promise<string> {
  const place = await clip.place(name);
  await clip.ok('mount', '--clip', archives.path(archive), '--at', place);
  return place;
}

/** Reads all files of a mount that may be forged; a file that cannot be read is null. */
async function readForged(place: string): Promise<Map<string, Buffer | null>> {
  const found = new Map<string, Buffer | null>();
  for (const path of FILES) {
    try {
      found.set(path, await readDirect(`${place}/${path}`));
    } catch (error) {
      expect(error).toMatchObject({ code: 'EIO' });
      found.set(path, null);
    }
  }
  return found;
}

async function expectHonest(place: string): Promise<void> {
  for (const [path, sha256] of expected)
    expect([path, sha256Of(await readDirect(`${place}/${path}`))]).toEqual([path, sha256]);
  expect(await readFile(`${place}/etc/sudoers`, 'utf8')).toContain(HONEST_RULE);
  expect(statSync(`${place}/bin/tool`).mode & 0o7777).toBe(0o755);
}

const archiveOf = (name: string): string => `${all.findIndex((forgery) => forgery.name === name)}.clip`;

describe('a forged window, which would give a guest NOPASSWD', () => {
  test('does not reach an honest mount through the disk cache', async () => {
    const place = await mount(archiveOf('a window'), 'forged');
    expect((await readForged(place)).get('etc/sudoers')).toBeNull();
    await clip.ok('umount', place);
    await expectHonest(await mount('honest.clip', 'honest'));
  });

  test('does not reach an honest mount that is served as one with it, because their identities are equal', async () => {
    const place = await mount(archiveOf('a window'), 'forged');
    await readForged(place);
    await expectHonest(await mount('honest.clip', 'honest'));
    // Now the honest state is known to the layer that both share.
    expect((await readDirect(`${place}/etc/sudoers`)).toString()).toBe(RULES);
  });

  test('does not reach an honest mount that shares the layer with a mount that nobody has read', async () => {
    await mount(archiveOf('a window, in an archive of another name'), 'forged');
    await expectHonest(await mount('honest.clip', 'honest'));
  });

  test('shows only in the mount of the archive that has its digest, and nowhere else', async () => {
    const place = await mount(archiveOf('a window and its digest'), 'forged');
    expect((await readForged(place)).get('etc/sudoers')!.toString()).toContain(FORGED_RULE);
    await expectHonest(await mount('honest.clip', 'honest'));
    expect((await readDirect(`${place}/etc/sudoers`)).toString()).toContain(FORGED_RULE);
  });

  test('is found by verify, with what to do; cache verify finds nothing, for nothing wrong is in the cache', async () => {
    const archive = archives.path(archiveOf('a window'));
    const ran = await clip.run(['verify', '--clip', archive]);
    expect(ran.code).toBe(1);
    expect(ran.stderr).toMatch(
      /section windows at byte \d+: checkpoint state: its SHA-256 differs\n {2}.*clipctl index/,
    );
    const place = await mount(archiveOf('a window'), 'forged');
    await readForged(place);
    await clip.ok('umount', place);
    expect(await clip.json('cache', 'verify')).toMatchObject({ damaged: 0 });
  });
});

test('no forged archive changes what the honest one shows, mounted before it, after it, or in its place', async () => {
  for (const [i, { name }] of all.entries()) {
    const forged = await mount(`${i}.clip`, 'forged');
    const first = await readForged(forged);
    const place = await mount('honest.clip', 'honest');
    await expectHonest(place);
    await readForged(forged);
    await expectHonest(place);
    await clip.ok('umount', place);
    await clip.ok('umount', forged);
    await expectHonest(await mount('honest.clip', 'honest'));
    await clip.ok('umount', place);
    await clip.ok('cache', 'prune');
    expect([name, first.size]).toEqual([name, FILES.length]);
  }
});

test('forged archives that come after the honest one do not change it either', async () => {
  const place = await mount('honest.clip', 'honest');
  for (const [i, { sameIdentity }] of all.entries()) {
    const forged = await mount(`${i}.clip`, `forged-${i}`);
    const found = await readForged(forged);
    if (sameIdentity) expect(sha256Of(found.get('etc/sudoers')!)).toBe(expected.get('etc/sudoers'));
    await clip.ok('cache', 'prune', '--mounted');
    await expectHonest(place);
  }
});
