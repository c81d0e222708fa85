import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { inflateRawSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { keyOfName } from '../../src/cache/content/named.js';
import { ArchiveFile } from '../../src/check/index.js';
import { type RecordedProfile, startName } from '../../src/lazy/index.js';
import { Clipctl } from '../support/clipctl.js';
import { redisCli, type ServerProcess, startRedis } from '../support/content-servers.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually, health } from '../support/mounted.js';
import { freePort } from '../support/processes.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

// What a start has read is published, whatever becomes of the mount, of clipd and of the content cache meanwhile. Real registry, Redis, mounts.

const FIRST = layerLike(700_000, 1);
let registry: TestRegistry;
let indexer: Clipctl;
let archive: string;
const undo: (() => unknown)[] = [];

beforeAll(async () => {
  [registry, indexer] = await Promise.all([startRegistry(), Clipctl.create()]);
  const image = writeImage([tar(file('first', FIRST), file('rest', layerLike(3_000_000, 2)))]);
  await registry.push(image.reference, 'app:one');
  image.remove();
  archive = indexer.path('app.clip');
  await indexer.ok('index', '--image', `${registry.host}/app:one`, '--out', archive, '--checkpoint', '1');
}, 60_000);
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});
afterAll(async () => {
  await indexer?.close();
  await registry?.stop();
});

async function machine(): Promise<Clipctl> {
  const clip = await Clipctl.create();
  undo.push(() => clip.close());
  await clip.place('mnt');
  return clip;
}

async function redis(port?: number): Promise<ServerProcess> {
  const server = await startRedis(port);
  undo.push(() => server.stop());
  return server;
}

const mount = (clip: Clipctl, ...flags: string[]): Promise<unknown> =>
  clip.ok('mount', '--clip', archive, '--at', clip.path('mnt'), '--plain-http', ...flags);
const contentCache = (port: number): string[] => ['--content-cache', `redis://127.0.0.1:${port}`];
const counters = async (clip: Clipctl): Promise<Readonly<Record<string, number>>> => (await clip.stats()).counters;
const start = async (clip: Clipctl): Promise<void> => {
  expect(await readFile(clip.path('mnt', 'first'))).toEqual(Buffer.from(FIRST));
};
const unpublished = (clip: Clipctl): string[] =>
  readdirSync(clip.path('cache', 'profiles')).filter((name) => name.endsWith('.start'));

/** What Redis has, read without clip. */
async function published(port: number): Promise<RecordedProfile | null> {
  const opened = ArchiveFile.open(archive);
  opened.close();
  const { manifestDigest, command } = startName(opened.archive.image);
  const key = keyOfName(`clip shared profile 1 ${manifestDigest} ${command}`);
  const hex = await redisCli(port, '--no-raw', 'eval', TO_HEX, '1', `clip:{${key}}:0`);
  const bytes = Buffer.from(hex.replaceAll('"', ''), 'hex');
  if (bytes.length === 0) return null;
  const packed = bytes.subarray(40, 40 + bytes.readUInt32LE(4));
  expect(createHash('sha256').update(packed).digest()).toEqual(bytes.subarray(8, 40));
  return JSON.parse(inflateRawSync(packed).toString()) as RecordedProfile;
}
const TO_HEX =
  'local v = redis.call("get", KEYS[1]) or "" return (v:gsub(".", function(c) return string.format("%02x", c:byte()) end))';

test('while a program that the start has left behind holds the mount', async () => {
  const { port } = await redis();
  const clip = await machine();
  await mount(clip, ...contentCache(port));
  const holder: ChildProcess = spawn('sleep', ['1000'], { cwd: clip.path('mnt') });
  undo.push(() => holder.kill('SIGKILL'));
  await start(clip);
  await clip.ok('umount', '--lazy', clip.path('mnt'));
  await eventually(async () => (await published(port)) !== null, 60_000);
  expect(holder.exitCode).toBe(null);
  expect(unpublished(clip)).toEqual([]);
}, 60_000);

test('when clipd is told to end right after the start', async () => {
  const { port } = await redis();
  const clip = await machine();
  await mount(clip, ...contentCache(port));
  await start(clip);
  const { keeperPid } = await health(clip);
  process.kill(keeperPid, 'SIGTERM');
  await eventually(async () => (await published(port)) !== null, 60_000);
}, 60_000);

test('when the content cache was away: as soon as it is back', async () => {
  const port = await freePort();
  const clip = await machine();
  await mount(clip, ...contentCache(port));
  await start(clip);
  await clip.ok('umount', clip.path('mnt'));
  // clipd ends a while after its last mount: this one stays.
  await clip.ok('mount', '--clip', archive, '--at', await clip.place('other'), '--plain-http');
  await eventually(async () => (await counters(clip)).profilesNotPublished! > 0, 60_000);
  expect(unpublished(clip)).toHaveLength(1);
  await redis(port);
  await eventually(async () => (await counters(clip)).profilesPublished === 1, 90_000);
  expect(await published(port)).toMatchObject({ starts: 1 });
  expect(unpublished(clip)).toEqual([]);
}, 120_000);

test('when the server was killed before it could: by the next one', async () => {
  const port = await freePort();
  const clip = await machine();
  await mount(clip, ...contentCache(port));
  await start(clip);
  await eventually(async () => (await counters(clip)).profilesNotPublished! > 0, 60_000);
  await redis(port);
  const { serverPid } = await health(clip);
  process.kill(serverPid, 'SIGKILL');
  await eventually(async () => (await published(port)) !== null, 90_000);
  expect((await health(clip)).serverPid).not.toBe(serverPid);
  await eventually(() => unpublished(clip).length === 0, 60_000);
}, 120_000);

test('when clipd had ended before it could: by the next clipd, unless that has --no-profile-sharing', async () => {
  const port = await freePort();
  const clip = await machine();
  await mount(clip, ...contentCache(port));
  await start(clip);
  await clip.stop();
  expect(unpublished(clip)).toHaveLength(1);
  await redis(port);
  const silent = [...contentCache(port), '--no-profile-sharing'];
  await mount(clip, ...silent);
  await start(clip);
  await clip.ok('umount', clip.path('mnt'));
  await clip.stop();
  expect(await published(port)).toBe(null);
  // What this machine keeps has both.
  await mount(clip, ...contentCache(port));
  await eventually(async () => (await published(port)) !== null, 90_000);
  expect(await clip.json('profile', 'ls')).toMatchObject([{ starts: 2 }]);
}, 120_000);
