import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ArchiveContents } from '../../src/archive/index.js';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl } from '../support/clipctl.js';
import { FORGED_RULE, type Forgery, forgeries, layerToForge, RULES, readContents, sealed } from '../support/forged.js';
import { FORGED_FILES, ForgedMounts } from '../support/forged-mounts.js';
import { type TestImage, writeImage } from '../support/images.js';
import { readDirect, sha256Of } from '../support/mounted.js';

// Archives with right CRCs and digests and other content, mounted beside an honest archive of the same layers: whatever a forged
// archive shows of itself, the honest mount shows the image.

let image: TestImage;
let honest: ArchiveContents;
let all: Forgery[];
let expected: ReadonlyMap<string, string>;
let archives: Clipctl;
let clip: Clipctl;
let mounts: ForgedMounts;

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
  expected = new Map(FORGED_FILES.map((path) => [path, sha256Of(readFileSync(`${place}/${path}`))]));
  await archives.ok('umount', place);
});
afterAll(async () => {
  image.remove();
  await archives.close();
});
beforeEach(async () => {
  clip = await Clipctl.create();
  mounts = new ForgedMounts(clip, expected);
});
afterEach(async () => {
  await clip.close();
});

async function mount(archive: string, name: string): Promise<string> {
  const place = await clip.place(name);
  await clip.ok('mount', '--clip', archives.path(archive), '--at', place);
  return place;
}

const archiveOf = (name: string): string => `${all.findIndex((forgery) => forgery.name === name)}.clip`;

describe('a forged window, which would give a guest NOPASSWD', () => {
  test('does not reach an honest mount through the disk cache', async () => {
    const place = await mount(archiveOf('a window'), 'forged');
    expect((await mounts.readForged(place)).get('etc/sudoers')).toBeNull();
    await clip.ok('umount', place);
    await mounts.checkHonest(await mount('honest.clip', 'honest'));
  });

  test('does not reach an honest mount that is served as one with it, because their identities are equal', async () => {
    const place = await mount(archiveOf('a window'), 'forged');
    await mounts.readForged(place);
    await mounts.checkHonest(await mount('honest.clip', 'honest'));
    // Now the honest state is known to the layer that both share.
    expect((await readDirect(`${place}/etc/sudoers`)).toString()).toBe(RULES);
  });

  test('does not reach an honest mount that shares the layer with a mount that nobody has read', async () => {
    await mount(archiveOf('a window, in an archive of another name'), 'forged');
    await mounts.checkHonest(await mount('honest.clip', 'honest'));
  });

  test('shows only in the mount of the archive that has its digest, and nowhere else', async () => {
    const place = await mount(archiveOf('a window and its digest'), 'forged');
    expect((await mounts.readForged(place)).get('etc/sudoers')!.toString()).toContain(FORGED_RULE);
    await mounts.checkHonest(await mount('honest.clip', 'honest'));
    expect((await readDirect(`${place}/etc/sudoers`)).toString()).toContain(FORGED_RULE);
  });

  test('is found by verify, with what to do; cache verify finds nothing, for nothing wrong is in the cache', async () => {
    const archive = archives.path(archiveOf('a window'));
    const ran = await clip.run(['verify', '--clip', archive]);
    expect(ran.code).toBe(EXIT_CODES.BAD_FORMAT);
    expect(ran.stderr).toMatch(
      /section windows at byte \d+: checkpoint state: its SHA-256 differs\n {2}.*clipctl index/,
    );
    const place = await mount(archiveOf('a window'), 'forged');
    await mounts.readForged(place);
    await clip.ok('umount', place);
    expect(await clip.json('cache', 'verify')).toMatchObject({ damaged: 0 });
  });
});

test('no forged archive changes what the honest one shows, mounted before it, after it, or in its place', async () => {
  await mount('honest.clip', 'first'); // starts clipd, and stays away from the files
  await clip.ok('umount', clip.path('first'));
  const honestArchive = archives.path('honest.clip');
  for (const [i, { name }] of all.entries()) {
    try {
      const forged = await mounts.mount(archives.path(`${i}.clip`), 'forged');
      await mounts.readForged(forged);
      const place = await mounts.mount(honestArchive, 'honest');
      await mounts.checkHonest(place);
      await mounts.readForged(forged);
      await mounts.checkHonest(place);
      await mounts.unmount(place);
      await mounts.unmount(forged);
      await mounts.checkHonest(await mounts.mount(honestArchive, 'honest'));
      await mounts.unmount(place);
      await mounts.prune(false);
    } catch (cause) {
      throw new Error(`beside an archive with another value for ${name}: ${String(cause)}`, { cause });
    }
  }
});

test('forged archives that come after the honest one do not change it either', async () => {
  const place = await mount('honest.clip', 'honest');
  for (const [i, { sameIdentity, name }] of all.entries()) {
    const forged = await mounts.mount(archives.path(`${i}.clip`), `forged-${i}`);
    const found = await mounts.readForged(forged);
    if (sameIdentity) expect([name, found.get('etc/sudoers')!.toString()]).toEqual([name, RULES]);
    await mounts.prune(true);
    await mounts.checkHonest(place);
  }
});
