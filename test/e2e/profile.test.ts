import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { ArchiveFile } from '../../src/check/index.js';
import type { RecordedProfile } from '../../src/lazy/index.js';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';
import { type RegistryProxy, startProxy } from '../support/proxy.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { dir, file, tar } from '../support/tar.js';

// A recorded run, embedded, and the fetches of a mount that has it. Real registry, real mounts: needs root and /dev/fuse.
// Nothing here may read a mount synchronously: the proxy that it waits for is in this process.

const FIRST = layerLike(300_000, 1);
const SECOND = layerLike(200_000, 2);
const PAD = layerLike(5_000_000, 3);

let registry: TestRegistry;
let proxy: RegistryProxy;
let clip: Clipctl;
let place: string;

beforeAll(async () => {
  registry = await startRegistry();
  const image = writeImage([tar(file('a', PAD), file('second', SECOND), file('b', PAD), file('first', FIRST))]);
  await registry.push(image.reference, 'app:one');
  image.remove();
  proxy = await startProxy({ upstream: registry.url });
  clip = await Clipctl.create();
  place = await clip.place('mnt');
}, 60_000);
afterAll(async () => {
  await clip?.close();
  await proxy?.stop();
  await registry?.stop();
});

async function prefetchedSpans(): Promise<number> {
  return (await clip.stats()).counters.prefetchBytes!;
}

test('a mount is recorded; stop keeps the profile; optimize embeds it; the next mount fetches by it, and no more', async () => {
  const archive = clip.path('app.clip');
  await clip.ok('index', '--image', `${proxy.host}/app:one`, '--out', archive, '--checkpoint', '1');
  await clip.ok('mount', '--clip', archive, '--at', place);
  const empty = await clip.run(['profile', 'stop', place]);
  expect(empty).toMatchObject({ code: EXIT_CODES.NOT_FOUND, stdout: '' });
  expect(empty.stderr).toContain('nothing was read');
  await clip.ok('umount', place);

  await clip.ok('mount', '--clip', archive, '--at', place);
  expect(await readFile(join(place, 'first'))).toEqual(Buffer.from(FIRST));
  expect(await readFile(join(place, 'second'))).toEqual(Buffer.from(SECOND));
  const out = clip.path('profile.json');
  const stopped = await clip.json<{ path: string; touchedBytes: number }>('profile', 'stop', place, '--out', out);
  expect(stopped.path).toBe(out);
  const profile = JSON.parse(readFileSync(out, 'utf8')) as RecordedProfile;
  // In the order of the run, not of the layer; whole pages around the files' data.
  const [first, second] = [profile.ranges[0]!, profile.ranges.at(-1)!];
  expect(first.start).toBeGreaterThan(second.end);
  expect(stopped.touchedBytes).toBeGreaterThanOrEqual(500_000);
  expect(stopped.touchedBytes).toBeLessThan(530_000);
  // Reads after the stop are not recorded; the second answer equals the first.
  await readFile(join(place, 'a'));
  expect(await clip.json('profile', 'stop', place)).toMatchObject({ touchedBytes: stopped.touchedBytes });
  const kept = await clip.json<{ path: string; touchedBytes: number }[]>('profile', 'ls');
  expect(kept).toHaveLength(1);
  // The same ranges, and of how many starts they are.
  const { ranges } = JSON.parse(readFileSync(kept[0]!.path, 'utf8')) as RecordedProfile;
  expect(ranges).toMatchObject(profile.ranges.map((range) => ({ ...range, starts: 1 })));
  await clip.ok('umount', place);

  const shaped = clip.path('shaped.clip');
  await clip.ok('optimize', '--clip', archive, '--profile', out, '--out', shaped);
  await clip.ok('mount', '--clip', shaped, '--at', place);
  await eventually(async () => (await prefetchedSpans()) > 0 && proxy.requests.every((r) => r.complete));
  await eventually(async () => (await clip.stats()).counters.requestsActive === 0);
  proxy.reset();
  expect(await readFile(join(place, 'first'))).toEqual(Buffer.from(FIRST));
  expect(await readFile(join(place, 'second'))).toEqual(Buffer.from(SECOND));
  expect(proxy.blobTraffic().requests).toBe(0);
  await clip.ok('umount', place);
}, 60_000);

test('unmounting keeps the recorded profile; --no-prefetch fetches nothing by itself', async () => {
  const shaped = clip.path('shaped.clip');
  for (const { path } of await clip.json<{ path: string }[]>('profile', 'ls')) expect(existsSync(path)).toBe(true);
  const before = await prefetchedSpans();
  await clip.ok('daemon', '--stop');
  await clip.ok('cache', 'prune');
  proxy.reset();
  await clip.ok('mount', '--clip', shaped, '--at', place, '--no-prefetch');
  expect(await readFile(join(place, 'second'))).toEqual(Buffer.from(SECOND));
  expect(before).toBeGreaterThan(0);
  expect(await prefetchedSpans()).toBe(0);
  await clip.ok('umount', place);
  // The third start read one of the two files only, and both are still known.
  const [kept] = await clip.json<{ path: string; starts: number; touchedBytes: number }[]>('profile', 'ls');
  expect(kept!.starts).toBe(3);
  const { ranges } = JSON.parse(readFileSync(kept!.path, 'utf8')) as RecordedProfile;
  expect(ranges.map(({ starts }) => starts)).toEqual([2, 3]);
  expect(kept!.touchedBytes).toBeGreaterThanOrEqual(500_000);
}, 60_000);

test('optimize --image records a run of its own', async () => {
  const out = clip.path('own.clip');
  // The image has no programs: a failed run is no profile.
  const ran = await clip.run(['optimize', '--image', `${proxy.host}/app:one`, '--out', out, '--', '/first']);
  expect(ran.code).not.toBe(0);
  expect(ran.stderr).toContain('"/first" cannot be executed');
  const chroot = await clip.run([
    ...['optimize', '--image', `${proxy.host}/app:one`],
    '--unsafe-chroot',
    '--out',
    out,
    '--',
    '/first',
  ]);
  expect([chroot.code, chroot.stderr]).toEqual([1, expect.stringContaining('/first: ended with')]);
  expect(existsSync(out)).toBe(false);
  const usage = await clip.run(['optimize', '--image', `${proxy.host}/app:one`, '--out', out]);
  expect(usage.code).toBe(2);
}, 60_000);

test.each([[], ['--unsafe-chroot']])(
  'optimize --image %s: the reads of the command become the profile',
  async (...how) => {
    // This machine's own program, with its libraries.
    const libraries = [...execFileSync('ldd', ['/bin/true'], { encoding: 'utf8' }).matchAll(/(\/\S+) \(/g)].map(
      (m) => m[1]!,
    );
    const program = (path: string, from = path): Uint8Array => file(path.slice(1), readFileSync(from), { mode: 0o755 });
    const needed = [program('/tool', '/bin/true'), ...libraries.map((path) => program(path))];
    // Regression: chroot(8) was looked for along the image's PATH.
    const config = { Env: ['PATH=/nowhere'] };
    const image = writeImage([tar(file('pad', PAD), ...needed, file('after', PAD))], { config });
    await registry.push(image.reference, 'tool:one');
    image.remove();
    const out = clip.path('tool.clip');
    await clip.ok('optimize', '--image', `${proxy.host}/tool:one`, '--out', out, ...how, '--', '/tool');
    const opened = ArchiveFile.open(out);
    const { archive } = opened;
    opened.close();
    expect(archive.profile!.source).toBe('recorded');
    expect(archive.profile!.span.length).toBeGreaterThan(0);
    const { layerOffset } = archive.layers[0]!.table;
    for (const span of archive.profile!.span) {
      expect(layerOffset[span]!).toBeGreaterThan(PAD.length - 4096);
      expect(layerOffset[span + 1]!).toBeLessThan(PAD.length + needed.reduce((sum, part) => sum + part.length, 8192));
    }
  },
  60_000,
);

test('optimize --image: a program that walks out of a chroot stays in its container', async () => {
  // Regression: the command ran as root in a bare chroot, with the capabilities and the network of the machine.
  const source = clip.path('escape.c');
  const secret = clip.path('secret');
  writeFileSync(secret, 'of the machine\n');
  writeFileSync(
    source,
    `#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int count, char **words) {
  int before = open(".", O_RDONLY);
  mkdir("/tmp", 0755); mkdir("/tmp/in", 0755);
  if (chroot("/tmp/in") != 0) chroot("/lost");
  fchdir(before);
  for (int i = 0; i < 100; i++) chdir("..");
  chroot(".");
  char text[100] = "";
  int found = open(words[1], O_RDONLY);
  if (found >= 0) read(found, text, 99);
  printf("found: %s\\n", text);
  return 0;
}
`,
  );
  execFileSync('gcc', ['-static', '-w', '-o', clip.path('escape'), source]);
  const program = file('escape', readFileSync(clip.path('escape')), { mode: 0o755 });
  const image = writeImage([tar(program, dir('lost'))], {});
  const run = async (...how: string[]): Promise<string> => {
    const out = clip.path('escape.clip');
    return (await clip.ok('optimize', '--image', image.reference, '--out', out, ...how, '--', '/escape', secret))
      .stderr;
  };
  expect(await run()).toContain('found: \n');
  expect(await run('--unsafe-chroot')).toContain('found: of the machine\n');
  image.remove();
}, 60_000);
