import { createHash, randomBytes } from 'node:crypto';
import { readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { crc64 } from '../../src/bytes/index.js';
import { openContentCache } from '../../src/cache/index.js';
import { encodeIndex, localEnd, s3Archive } from '../../src/legacy/index.js';
import { Clipctl } from '../support/clipctl.js';
import { redisCli, S3_CREDENTIALS, type ServerProcess, startRedis, startS3 } from '../support/content-servers.js';
import { legacyNode as node } from '../support/legacy-node.js';
import { health, eventually as within } from '../support/mounted.js';

// Long files of S3 archives in a Redis, under their content hashes. A real S3 protocol server, a real Redis, real mounts.

const LENGTH = 18 * 1024 * 1024 + 4321; // three values of 8 MiB at most
const content = randomBytes(LENGTH);
const hash = createHash('sha256').update(content).digest('hex');
/** Other content of the same length. */
const other = randomBytes(LENGTH);
const otherHash = createHash('sha256').update(other).digest('hex');

let s3: ServerProcess;
let redis: ServerProcess;
const machines: Clipctl[] = [];
const archives = new Map<string, string>();
let directory: Clipctl;

const eventually = (check: () => boolean | Promise<boolean>): Promise<void> => within(check, 60_000);

/** An archive of one file, `/big`, that claims the hash. */
async function makeArchive(name: string, claimed: string): Promise<void> {
  const start = 55;
  const sum = Buffer.alloc(8);
  sum.writeBigUInt64BE(crc64(content));
  const nodes = [
    node('/', { nodeType: 'dir', mode: 0o40755 }),
    node('/big', { dataPos: start, dataLen: LENGTH, contentHash: Buffer.from(claimed) }),
  ];
  const { index, header } = localEnd(nodes, start + LENGTH + 8);
  const client = new S3Client({
    region: 'us-east-1',
    endpoint: `http://127.0.0.1:${s3.port}`,
    forcePathStyle: true,
    credentials: S3_CREDENTIALS,
  });
  const Body = Buffer.concat([header, Buffer.alloc(1), content, sum, index]);
  await client.send(new PutObjectCommand({ Bucket: 'clip', Key: name, Body }));
  client.destroy();
  const endpoint = `http://127.0.0.1:${s3.port}`;
  const location = { bucket: 'clip', key: name, region: 'us-east-1', endpoint, forcePathStyle: true };
  const path = directory.path(`${name}.rclip`);
  writeFileSync(path, Buffer.concat(s3Archive(encodeIndex(nodes), location)));
  archives.set(name, path);
}

beforeAll(async () => {
  [s3, redis, directory] = await Promise.all([startS3(), startRedis(), Clipctl.create()]);
  await makeArchive('honest', hash);
  await makeArchive('mistaken', otherHash);
}, 120_000);
beforeEach(() => redisCli(redis.port, 'flushall'));
afterEach(async () => {
  for (const machine of machines.splice(0)) await machine.close();
});
afterAll(async () => {
  await directory?.close();
  await Promise.all([s3?.stop(), redis?.stop()]);
});

interface Machine {
  readonly clip: Clipctl;
  readonly place: string;
  readonly file: string;
  counters(): Promise<Readonly<Record<string, number>>>;
}

async function machine(archive = 'honest'): Promise<Machine> {
  const env = { AWS_ACCESS_KEY_ID: 'S3RVER', AWS_SECRET_ACCESS_KEY: 'S3RVER' };
  const clip = await Clipctl.create({ env });
  machines.push(clip);
  const place = await clip.place('m');
  const shared = ['--content-cache', `redis://127.0.0.1:${redis.port}`, '--no-profile-sharing'];
  await clip.ok('mount', '--clip', archives.get(archive)!, '--at', place, ...shared);
  return { clip, place, file: `${place}/big`, counters: async () => (await clip.stats()).counters };
}

async function readsRight(file: string): Promise<void> {
  expect((await readFile(file)).equals(content)).toBe(true);
}

/** Puts the file into Redis by a machine that reads all of it. */
async function fill(): Promise<void> {
  const first = await machine();
  await readsRight(first.file);
  await eventually(async () => (await first.counters()).contentStored === 1);
  await first.clip.close();
}

async function readSome(file: string, position: number): Promise<void> {
  const handle = await open(file);
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(1000), 0, 1000, position);
    expect(buffer.subarray(0, bytesRead).equals(content.subarray(position, position + 1000))).toBe(true);
  } finally {
    await handle.close();
  }
}

test('a long file is stored once it was read, and the next machine has it from there after its first read', async () => {
  await fill();
  const keys = (await redisCli(redis.port, 'keys', '*')).split('\n').sort();
  expect(keys).toEqual([0, 1, 2].map((chunk) => `clip:{${hash}}:${chunk}`));

  const second = await machine();
  await readSome(second.file, 3_000_000);
  // All of it but what the first read took from S3 itself, and the last piece with the checksum.
  await eventually(async () => (await second.counters()).cacheUsedBytes! >= LENGTH);
  const before = await second.counters();
  expect(before.contentBytes).toBe(LENGTH);
  expect(before.demandBytes! + before.readaheadBytes! + before.fillBytes!).toBeLessThan(LENGTH / 3);
  await readsRight(second.file);
  const after = await second.counters();
  expect(after).toMatchObject({
    requests: before.requests,
    contentStored: 0,
    contentPoisoned: 0,
    legacyWrongHashes: 0,
  });
}, 120_000);

test('two machines that read it at the same time store it once', async () => {
  const both = await Promise.all([machine(), machine()]);
  await redisCli(redis.port, 'config', 'resetstat');
  await Promise.all(both.map(({ file }) => readsRight(file)));
  const stored = async (): Promise<number> => {
    const counters = await Promise.all(both.map((one) => one.counters()));
    return counters.reduce((sum, { contentStored = 0 }) => sum + contentStored, 0);
  };
  await eventually(async () => (await stored()) === 1);
  await eventually(async () => (await redisCli(redis.port, 'keys', '*:storing')) === '');
  const calls = /cmdstat_set:calls=(\d+)/.exec(await redisCli(redis.port, 'info', 'commandstats'))?.[1];
  expect(Number(calls)).toBeLessThanOrEqual(3 + 2); // three values, and a claim of each machine
  expect(await stored()).toBe(1);
}, 120_000);

test('a value of Redis that was tampered with is never served, and replaced', async () => {
  await fill();
  await redisCli(redis.port, 'setrange', `clip:{${hash}}:1`, '12345', 'not these bytes');
  const second = await machine();
  await readSome(second.file, 3_000_000);
  await eventually(async () => (await second.counters()).contentPoisoned === 1);
  await readsRight(second.file);
  await eventually(async () => (await second.counters()).contentStored === 1);
  const third = await machine();
  await readSome(third.file, 9_000_000);
  await eventually(async () => (await third.counters()).cacheUsedBytes! >= LENGTH);
  expect(await third.counters()).toMatchObject({ contentPoisoned: 0, contentBytes: LENGTH });
}, 120_000);

test('a file of which Redis has lost a value comes from S3, and is stored again', async () => {
  await fill();
  await redisCli(redis.port, 'del', `clip:{${hash}}:1`);
  const second = await machine();
  await readsRight(second.file);
  await eventually(async () => (await redisCli(redis.port, 'exists', `clip:{${hash}}:1`)) === '1');
  await eventually(async () => (await second.counters()).contentStored === 1);
}, 120_000);

test('a wrong hash, under which Redis has other content of that length, leaves the file readable and is counted', async () => {
  const shared = await openContentCache(`redis://127.0.0.1:${redis.port}`);
  await shared.storeContent(Readable.from([other]), otherHash, { routingKey: '' });
  await shared.close?.();
  const one = await machine('mistaken');
  await readSome(one.file, 3_000_000);
  await eventually(async () => (await one.counters()).legacyWrongHashes === 1);
  await readsRight(one.file);
  const counters = await one.counters();
  expect(counters).toMatchObject({ legacyWrongHashes: 1, contentPoisoned: 0, contentStored: 0, badContent: 0 });
}, 120_000);

test('an unmount ends a copy that is under way, with its file', async () => {
  await fill();
  const one = await machine();
  await redisCli(redis.port, 'client', 'pause', '1000', 'all');
  await readSome(one.file, 3_000_000);
  await one.clip.ok('umount', one.place);
  const { serverPid } = await health(one.clip);
  const scratch = (): string[] =>
    readdirSync(`/proc/${serverPid}/fd`)
      .map((fd) => {
        try {
          return readlinkSync(`/proc/${serverPid}/fd/${fd}`);
        } catch {
          return '';
        }
      })
      .filter((target) => target.startsWith(one.clip.path('cache')) && target.endsWith(' (deleted)'));
  await eventually(() => scratch().length === 0);
  expect((await one.counters()).cacheUsedBytes).toBeLessThanOrEqual(LENGTH * 1.01);
}, 120_000);
