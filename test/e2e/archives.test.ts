import { existsSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl } from '../support/clipctl.js';
import { Stage } from '../support/container-images.js';
import type { TestImage } from '../support/images.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';

// `--image REF` in place of `--clip FILE`: archives that clip keeps by itself.

let clip: Clipctl;
let registry: TestRegistry;
const images: TestImage[] = [];
let reference: string;

interface Listed {
  readonly reference: string;
  readonly platform: string;
  readonly manifestDigest: string;
  readonly path: string;
  readonly size: number;
}

function make(word: string): TestImage {
  const image = new Stage()
    .base()
    .file('word', `${word}\n`)
    .image({ Cmd: ['cat', '/word'], Env: ['PATH=/bin'] });
  images.push(image);
  return image;
}

beforeAll(async () => {
  clip = await Clipctl.create();
  registry = await startRegistry();
  reference = `${registry.host}/app:v`;
  await registry.push(make('first').reference, 'app:v');
});
afterAll(async () => {
  for (const image of images) image.remove();
  await registry.stop();
  await clip.close();
});

const list = (): Promise<Listed[]> => clip.json<Listed[]>('archives', 'ls');
const run = async (...flags: string[]): Promise<string> => (await clip.ok('run', '--rm', ...flags, reference)).stdout;

test('an image is indexed once, and its archive serves every command', async () => {
  expect(await list()).toEqual([]);
  expect(await run()).toBe('first\n');
  const [archive] = await list();
  expect(archive).toMatchObject({ reference, platform: process.arch === 'x64' ? 'linux/amd64' : 'linux/arm64' });
  expect(archive!.path).toContain(clip.path('cache/archives', archive!.manifestDigest.replace(':', '-')));
  const { ino } = statSync(archive!.path);
  expect(await run()).toBe('first\n');
  expect((await clip.ok('ls', '--image', reference, '/word')).stdout).toBe('/word\n');
  expect((await clip.ok('inspect', '--image', reference)).stdout).toContain(archive!.manifestDigest);
  expect((await clip.ok('verify', '--image', reference)).stdout).toContain('all as indexed');
  const place = await clip.place('at');
  await clip.ok('mount', '--image', reference, '--at', place);
  expect(readFileSync(join(place, 'word'), 'utf8')).toBe('first\n');
  await clip.ok('umount', place);
  expect(statSync(archive!.path).ino).toBe(ino);
  // Two names for one manifest share an archive.
  await clip.ok('inspect', '--image', `${registry.host}/app@${archive!.manifestDigest}`);
  expect(await list()).toHaveLength(1);
});

test('--pull: a tag that moved is seen with always only', async () => {
  await registry.push(make('second').reference, 'app:v');
  expect(await run()).toBe('first\n');
  expect(await run('--pull', 'never')).toBe('first\n');
  expect(await run('--pull', 'always')).toBe('second\n');
  expect(await run()).toBe('second\n');
  expect(await list()).toHaveLength(2);
  const unknown = await clip.run(['run', '--rm', '--pull', 'never', `${registry.host}/app:other`]);
  expect([unknown.code, unknown.stderr]).toEqual([
    125,
    expect.stringMatching(/no archive of .*app:other .* is stored\n.*archives ls/),
  ]);
});

test('an archive that is damaged, or that another version of clip wrote, is made again', async () => {
  const before = await list();
  const newest = before.find(({ reference: of }) => of === reference)!;
  truncateSync(newest.path, newest.size - 1);
  expect((await clip.ok('archives', 'ls')).stdout).toContain('damaged');
  expect(await run()).toBe('second\n');
  const version = Buffer.from(readFileSync(newest.path));
  version[9]! += 1; // docs/format.md, "Layout"
  writeFileSync(newest.path, version);
  expect(await run()).toBe('second\n');
  expect(await list()).toHaveLength(before.length);
});

test('two at the same time index once', async () => {
  await registry.push(make('third').reference, 'app:w');
  const two = [1, 2, 3].map(() => clip.ok('inspect', '--image', `${registry.host}/app:w`, '--json'));
  const outputs = new Set((await Promise.all(two)).map(({ stdout }) => stdout));
  expect(outputs.size).toBe(1);
  expect(readdirSync(clip.path('cache/archives')).filter((name) => /lock|tmp|new/.test(name))).toEqual([]);
});

test('an image layout is looked at each time, and says so when it has gone', async () => {
  const image = make('layout');
  expect((await clip.ok('run', '--rm', image.reference)).stdout).toBe('layout\n');
  image.remove();
  const gone = await clip.run(['run', '--rm', image.reference]);
  expect(gone.code).toBe(125);
});

test('offline, a tag that was resolved before starts; with always a note says so', async () => {
  // In the cache by now: nothing of the image has to be fetched.
  expect(await run()).toBe('second\n');
  await registry.stop();
  expect(await run()).toBe('second\n');
  const always = await clip.run(['run', '--rm', '--pull', 'always', reference]);
  expect([always.code, always.stdout]).toEqual([0, 'second\n']);
  expect(always.stderr).toMatch(/note: .*: going on with .*app:v as it was at 20\d\d-/);
  const unknown = await clip.run(['run', '--rm', `${registry.host}/app:unknown`]);
  expect(unknown.code).toBe(125);
}, 120_000);

test('archives can be removed, one or all of them', async () => {
  const [newest] = await list();
  await clip.ok('archives', 'rm', newest!.manifestDigest);
  expect(existsSync(newest!.path)).toBe(false);
  const again = await clip.run(['archives', 'rm', newest!.manifestDigest]);
  expect([again.code, again.stderr]).toEqual([EXIT_CODES.NOT_FOUND, expect.stringContaining('is stored')]);
  writeFileSync(clip.path('cache/archives/refs', `${'0'.repeat(64)}.json`), '{"cut');
  const { freedBytes, usedBytes } = await clip.json<{ freedBytes: number; usedBytes: number }>('archives', 'prune');
  expect([freedBytes > 0, usedBytes, readdirSync(clip.path('cache/archives'))]).toEqual([true, 0, ['refs']]);
});
