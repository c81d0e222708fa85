import { copyFileSync, linkSync, readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Clipctl } from '../support/clipctl.js';
import { forgeries, layerToForge, readContents, sealed, withDamagedStates } from '../support/forged.js';
import { FORGED_FILES } from '../support/forged-mounts.js';
import { type TestImage, writeImage } from '../support/images.js';
import { eventually, health, listed, sha256Of } from '../support/mounted.js';

// An archive that is the honest one in all that is checked when it is opened, and has damaged checkpoint states, which are checked when
// they are used. It harms its own mounts, and no others.

let image: TestImage;
let archives: Clipctl;
let honest: string;
let expected: ReadonlyMap<string, string>;
let clip: Clipctl;

beforeAll(async () => {
  archives = await Clipctl.create();
  image = writeImage([layerToForge()]);
  honest = archives.path('honest.clip');
  await archives.ok('index', '--image', image.reference, '--out', honest, '--checkpoint', '1');
  writeFileSync(archives.path('equal.clip'), withDamagedStates(readFileSync(honest)));
  const other = forgeries(
    readContents(honest),
    readFileSync(image.layout.blobPath(readContents(honest).image.layers[0]!.digest)),
  );
  const { contents } = other.find(({ name }) => name === 'a window, in an archive of another name')!;
  writeFileSync(archives.path('sharing.clip'), withDamagedStates(sealed(contents)));
  const place = await archives.place('honest');
  await archives.ok('mount', '--clip', honest, '--at', place);
  expected = new Map(FORGED_FILES.map((path) => [path, sha256Of(readFileSync(`${place}/${path}`))]));
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

async function mount(archive: string, name: string, ...flags: string[]): Promise<string> {
  const place = await clip.place(name);
  await clip.ok('mount', '--clip', archive, '--at', place, ...flags);
  return place;
}

/** What each file is at a place whose bytes nothing has kept; null: it cannot be read. */
async function readAll(place: string): Promise<Map<string, string | null>> {
  await clip.ok('cache', 'prune', '--to', '0', '--mounted');
  const found = new Map<string, string | null>();
  for (const path of FORGED_FILES) {
    try {
      found.set(path, sha256Of(readFileSync(`${place}/${path}`)));
    } catch {
      found.set(path, null);
    }
  }
  return found;
}

async function expectHonest(place: string): Promise<void> {
  expect(await readAll(place)).toEqual(expected);
}

async function restartServer(): Promise<void> {
  const { serverPid } = await health(clip);
  process.kill(serverPid, 'SIGKILL');
  await eventually(async () => (await health(clip)).serverPid !== serverPid);
}

describe.each([
  ['equal.clip', 'an equal archive with damaged states'],
  ['sharing.clip', 'another archive with damaged states, of the same layer'],
])('%s, %s', (name) => {
  test.each(['fuse', 'kernel'])('mounted before the honest one, on the %s plane', async (plane) => {
    const forged = await mount(archives.path(name), 'forged', '--plane', plane);
    expect((await readAll(forged)).get('large')).toBeNull();
    const place = await mount(honest, 'honest', '--plane', plane);
    await expectHonest(place);
    await restartServer();
    await readAll(forged);
    await expectHonest(place);
    await clip.ok('umount', forged);
    await expectHonest(place);
  });

  test('mounted after the honest one, which is unmounted and mounted again', async () => {
    const place = await mount(honest, 'honest');
    const forged = await mount(archives.path(name), 'forged');
    await readAll(forged);
    await expectHonest(place);
    await clip.ok('umount', place);
    await readAll(forged);
    await mount(honest, 'honest');
    await expectHonest(place);
    await clip.ok('umount', forged);
    await restartServer();
    await expectHonest(place);
  });

  test('restored with the honest one after clipd was killed', async () => {
    const forged = await mount(archives.path(name), 'forged');
    const place = await mount(honest, 'honest');
    const { keeperPid } = await health(clip);
    process.kill(keeperPid, 'SIGKILL');
    await clip.ok('mount', '--clip', honest, '--at', place); // starts the next clipd, which mounts both again
    expect((await listed(clip)).map(({ mountPoint }) => mountPoint).sort()).toEqual([forged, place].sort());
    await readAll(forged);
    await expectHonest(place);
  });
});

test('an archive that is cut, and then removed, leaves a mount of its copy whole', async () => {
  const theirs = clip.path('theirs.clip');
  copyFileSync(honest, theirs);
  const first = await mount(theirs, 'theirs');
  const place = await mount(honest, 'honest');
  await expectHonest(first);
  truncateSync(theirs, 200);
  await expectHonest(place);
  renameSync(theirs, clip.path('elsewhere.clip'));
  await expectHonest(place);
  // Both have the layer, so the states of the whole one serve the other, too.
  await expectHonest(first);
  await clip.ok('umount', place);
  expect((await readAll(first)).get('large')).toBeNull();
});

test('an archive in another file is read with its own options; the same file under another name has one connection', async () => {
  const [copy, link] = [clip.path('copy.clip'), clip.path('link.clip')];
  copyFileSync(honest, copy);
  linkSync(copy, link); // changes the file's ctime, not its content
  await mount(honest, 'honest');
  const one = await mount(copy, 'copy', '--no-prefetch');
  const two = await mount(link, 'link', '--no-prefetch');
  const connections = new Map((await listed(clip)).map(({ mountPoint, connection }) => [mountPoint, connection]));
  expect(connections.get(two)).toBe(connections.get(one));
  expect(new Set(connections.values()).size).toBe(2);
  linkSync(copy, clip.path('third.clip'));
  const three = await mount(copy, 'three');
  expect((await listed(clip)).find(({ mountPoint }) => mountPoint === three)!.connection).toBe(connections.get(one));
});
