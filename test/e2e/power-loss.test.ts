import {
  closeSync,
  copyFileSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Clipctl } from '../support/clipctl.js';
import {
  alive,
  eventually,
  health,
  type IndexedImage,
  indexedImage,
  readDirect,
  sha256Of,
} from '../support/mounted.js';

// A machine that loses power keeps of each file what the disk had by then: names without content, some blocks, old blocks.

let clip: Clipctl;
let image: IndexedImage;

beforeAll(async () => {
  clip = await Clipctl.create();
  image = await indexedImage(clip, 'image', 1, 3e6);
});
afterAll(async () => {
  image.remove();
  await clip.close();
});

/** All processes gone at once. The mounts are dead, as nothing unmounts them. */
async function loseProcesses(): Promise<void> {
  const { keeperPid, serverPid } = await health(clip);
  process.kill(keeperPid, 'SIGKILL');
  await eventually(() => !alive(keeperPid) && !alive(serverPid));
}

async function readsRight(place: string): Promise<void> {
  for (const [path, hash] of image.hashes) expect(sha256Of(await readDirect(`${place}/${path}`))).toBe(hash);
}

/** Of the files in the cache, the spans ('') or the tables beside them. */
function each(suffix: '' | '.table', damage: (path: string) => void): void {
  const names = readdirSync(clip.path('cache/spans')).filter((name) => name.endsWith('.table') === (suffix !== ''));
  expect(names.length).toBeGreaterThan(0);
  for (const name of names) damage(clip.path('cache/spans', name));
}

function overwrite(path: string, byte: number, from: number, to: number): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, Buffer.alloc(to - from, byte), 0, to - from, from);
  closeSync(fd);
}

test.each<[string, () => void]>([
  ['span files that were never written out', () => each('', (path) => truncateSync(path, 0))],
  ['span files cut in the middle', () => each('', (path) => truncateSync(path, statSync(path).size >> 1))],
  ['blocks of zeros', () => each('', (path) => overwrite(path, 0, 4096, statSync(path).size >> 1))],
  ['blocks of another file', () => each('', (path) => overwrite(path, 0xa5, 8192, 16384))],
  ['an empty table', () => each('.table', (path) => truncateSync(path, 0))],
  ['half a table', () => each('.table', (path) => truncateSync(path, statSync(path).size >> 1))],
  ['a version without content', () => truncateSync(clip.path('cache/version'), 0)],
  ['a lock with half a line', () => writeFileSync(clip.path('cache/lock'), '{"pid":')],
])('the cache after a loss of power with %s: bytes are right', async (_name, damage) => {
  const place = await clip.place('cached');
  await clip.ok('mount', '--clip', image.archive, '--at', place);
  await readsRight(place);
  await loseProcesses();
  damage();
  await clip.ok('mount', '--clip', image.archive, '--at', place);
  await readsRight(place);
  await clip.ok('umount', place);
  await clip.stop();
});

test('the list of mounts after a loss of power at any moment of its writing is the old one or the new one', async () => {
  const [first, second] = [await clip.place('first'), await clip.place('second')];
  await clip.ok('mount', '--clip', image.archive, '--at', first);
  const list = clip.path('root/mounts.json');
  copyFileSync(list, clip.path('old'));
  await clip.ok('mount', '--clip', image.archive, '--at', second);
  const written = readFileSync(list);
  const old = readFileSync(clip.path('old'));
  for (const [content, length, expected] of [
    [old, 0, [first]],
    [old, written.length >> 1, [first]],
    [old, written.length, [first]],
    [written, 0, [first, second]],
  ] as const) {
    await loseProcesses();
    writeFileSync(list, content);
    writeFileSync(`${list}.new`, written.subarray(0, length));
    const other = await clip.place('other');
    await clip.ok('mount', '--clip', image.archive, '--at', other);
    const places = (await clip.json<{ mountPoint: string }[]>('ps')).map((mount) => mount.mountPoint);
    expect(places.sort()).toEqual([...expected, other].sort());
    await clip.ok('umount', other);
  }
  rmSync(clip.path('old'));
  await clip.stop();
});
