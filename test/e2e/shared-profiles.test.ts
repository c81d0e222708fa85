import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { getNamed, keyOfName, putNamed } from '../../src/cache/content/named.js';
import { openContentCache } from '../../src/cache/index.js';
import { ArchiveFile } from '../../src/check/index.js';
import type { RecordedProfile } from '../../src/lazy/index.js';
import type { PrefetchState } from '../../src/wire/index.js';
import { Clipctl } from '../support/clipctl.js';
import { type ServerProcess, startRedis } from '../support/content-servers.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';
import { type RegistryProxy, startProxy } from '../support/proxy.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

// Starts on machines that share a content cache: what the first one reads, the next ones fetch ahead. Real registry, real Redis, real
// mounts. Nothing here may read a mount synchronously: the proxy that it waits for is in this process.

const MIB = 1024 * 1024;
/** Much more than a profile may waste. */
const PAD = 84 * MIB;
const FIRST = layerLike(700_000, 1);
const SECOND = layerLike(500_000, 2);

let registry: TestRegistry;
let proxy: RegistryProxy;
let redis: ServerProcess;
let indexer: Clipctl;
let archive: string;
const machines: Clipctl[] = [];

beforeAll(async () => {
  [registry, redis, indexer] = await Promise.all([startRegistry(), startRedis(), Clipctl.create()]);
  proxy = await startProxy({ upstream: registry.url });
  // Random bytes: compressed, they are as many.
  const pad = Buffer.alloc(PAD);
  for (let at = 0; at < PAD; at += 32) createHash('sha256').update(String(at)).digest().copy(pad, at);
  const parts = [
    tar(file('second', SECOND), file('a', pad.subarray(0, PAD / 2))),
    tar(file('b', pad.subarray(PAD / 2)), file('first', FIRST)),
  ];
  const image = writeImage(parts, { config: { Cmd: ['/serve'] } });
  await registry.push(image.reference, 'app:one');
  image.remove();
  archive = indexer.path('app.clip');
  await indexer.ok('index', '--image', `${proxy.host}/app:one`, '--out', archive, '--checkpoint', '1');
}, 120_000);
afterEach(async () => {
  for (const machine of machines.splice(0)) await machine.close();
});
afterAll(async () => {
  await indexer?.close();
  await proxy?.stop();
  await Promise.all([registry?.stop(), redis?.stop()]);
});

class Machine {
  private constructor(
    readonly clip: Clipctl,
    readonly place: string,
  ) {}

  /** With an empty disk. */
  static async create(): Promise<Machine> {
    const clip = await Clipctl.create();
    machines.push(clip);
    return new Machine(clip, await clip.place('mnt'));
  }

  async mount(...flags: string[]): Promise<void> {
    await this.clip.ok('mount', '--clip', archive, '--at', this.place, ...flags);
  }

  async counters(): Promise<Readonly<Record<string, number>>> {
    return (await this.clip.stats()).counters;
  }

  async prefetches(): Promise<readonly PrefetchState[]> {
    return (await this.clip.json<{ prefetches: PrefetchState[] }[]>('ps'))[0]!.prefetches;
  }

  async start(): Promise<void> {
    expect(await readFile(join(this.place, 'first'))).toEqual(Buffer.from(FIRST));
    expect(await readFile(join(this.place, 'second'))).toEqual(Buffer.from(SECOND));
  }

  /** Unmounts, and waits until all of what the start read is where others find it. */
  async publish(url: string): Promise<void> {
    await this.clip.ok('umount', this.place);
    const [kept] = await this.clip.json<{ path: string }[]>('profile', 'ls');
    const cache = openContentCache(url);
    await eventually(async () => {
      const shared = await getNamed(cache, sharedName(), MIB, { routingKey: '' });
      return shared !== null && inflateRawSync(shared).toString() === readFileSync(kept!.path, 'utf8').trim();
    });
    await cache.close?.();
  }
}

function imageOf(clip: string): ArchiveFile['archive']['image'] {
  const opened = ArchiveFile.open(clip);
  opened.close();
  return opened.archive.image;
}

/** As clipd names it; the image's own command. */
function sharedName(): string {
  const { manifestDigest } = imageOf(archive);
  const command = createHash('sha256')
    .update(JSON.stringify([[], ['/serve']]))
    .digest('hex');
  return `clip shared profile 1 ${manifestDigest} ${command}`;
}

describe.each(['redis', 'dir'])('through %s', (kind) => {
  let url: string;
  beforeAll(() => {
    const directory = indexer.path('shared');
    mkdirSync(directory, { recursive: true });
    url = kind === 'redis' ? `redis://127.0.0.1:${redis.port}` : `dir:${directory}`;
  });

  test('what one machine read first, the next fetches ahead, and asks the registry for no blob', async () => {
    const first = await Machine.create();
    await first.mount('--content-cache', url);
    await first.start();
    expect(await first.counters()).toMatchObject({ profilesFoundShared: 0, profilesNotFound: 1 });
    await eventually(async () => {
      const { contentStored = 0, spansFetched = -1, contentQueueBytes } = await first.counters();
      return contentStored === spansFetched && contentQueueBytes === 0;
    });
    await first.publish(url);

    proxy.reset();
    const second = await Machine.create();
    await second.mount('--content-cache', url);
    // No reader was there yet.
    await eventually(async () => (await second.prefetches()).every(({ state }) => state === 'done'));
    const [prefetch] = await second.prefetches();
    expect(prefetch).toMatchObject({ what: 'profile', from: 'shared' });
    expect(prefetch!.bytes.done).toBeGreaterThan(500_000);
    expect(prefetch!.bytes.done).toBeLessThan(6 * MIB);
    await second.start();
    const counters = await second.counters();
    expect(counters).toMatchObject({ profilesFoundShared: 1, requests: 0, spanMisses: 0 });
    expect(proxy.blobTraffic().requests).toBe(0);
    await second.publish(url);

    // Its own from now on, with both starts in it.
    await second.mount('--content-cache', url);
    expect(await second.prefetches()).toMatchObject([{ what: 'profile', from: 'kept' }]);
    const [kept] = await second.clip.json<{ path: string; starts: number }[]>('profile', 'ls');
    expect(kept!.starts).toBe(2);
    const profile = JSON.parse(readFileSync(kept!.path, 'utf8')) as RecordedProfile;
    // `first` lies in the second layer.
    expect(profile.ranges[0]).toMatchObject({ layer: 1, starts: 2 });
    expect(profile.ranges.at(-1)).toMatchObject({ layer: 0, starts: 2 });
  }, 120_000);

  test('with --no-profile-sharing nothing is looked for and nothing published', async () => {
    const own = await Machine.create();
    await own.mount('--content-cache', url, '--no-profile-sharing');
    await own.start();
    expect(await own.prefetches()).not.toContainEqual(expect.objectContaining({ from: 'shared' }));
    await own.clip.ok('umount', own.place);
    const counters = await own.counters();
    expect(counters).toMatchObject({ profilesFoundShared: 0, profilesNotFound: 0, profilesPublished: 0 });
    const other = await own.clip.run(['mount', '--clip', archive, '--at', own.place, '--no-profile-sharing']);
    expect(other.code).toBe(0);
    await own.clip.ok('umount', own.place);
    // Still of use to this machine.
    expect(await own.clip.json('profile', 'ls')).toMatchObject([{ starts: 1 }]);
  }, 60_000);

  test('a hostile profile costs at most its bound, and is accounted', async () => {
    const cache = openContentCache(url);
    const { manifestDigest, layers } = imageOf(archive);
    const all = layers.map(({ uncompressedSize }, layer) => ({ layer, start: 0, end: uncompressedSize }));
    const valid = { format: 'clip profile 1', manifestDigest, layers: layers.map(({ digest }) => digest), ranges: all };
    const publish = (value: unknown, pack = (json: string): Uint8Array => deflateRawSync(json)): Promise<void> =>
      putNamed(cache, sharedName(), pack(JSON.stringify(value)), { routingKey: 'profile' });

    // Each is refused, and the start goes on without it.
    const victim = await Machine.create();
    for (const [i, [hostile, pack]] of (
      [
        [{ ...valid, ranges: [{ layer: 0, start: 0, end: layers[0]!.uncompressedSize + 1 }] }],
        [{ ...valid, ranges: [{ layer: 7, start: 0, end: 1 }] }],
        [{ ...valid, manifestDigest: `sha256:${'0'.repeat(64)}` }],
        [{ ...valid, layers: [...valid.layers].reverse() }],
        [valid, (json: string) => Buffer.from(json)],
        // A bomb: 100 MB of spaces in 100 KB.
        [valid, (json: string) => deflateRawSync(`${json}${' '.repeat(100_000_000)}`)],
      ] as const
    ).entries()) {
      await publish(hostile, pack);
      await victim.mount('--content-cache', url);
      await eventually(async () => (await victim.counters()).profilesRefused === i + 1);
      expect(await victim.prefetches()).not.toContainEqual(expect.objectContaining({ from: 'shared' }));
      await victim.clip.ok('umount', victim.place);
    }
    // One that says that it has 2 GiB.
    const forged = Buffer.alloc(8192);
    forged.write('CLPN');
    forged.writeUInt32LE(2 ** 31, 4);
    await cache.storeContent(
      (async function* () {
        yield forged;
      })(),
      keyOfName(sharedName()),
      { routingKey: '' },
    );
    await victim.mount('--content-cache', url);
    await eventually(async () => (await victim.counters()).profileLookupsFailed === 1);
    await victim.clip.ok('umount', victim.place);

    // One that looks right and names everything: the prefetch waits for readers that never come.
    await publish(valid);
    await victim.mount('--content-cache', url);
    await eventually(async () => (await victim.counters()).prefetchBytes! > 60 * MIB, 60_000);
    await victim.start();
    const { prefetchBytes } = await victim.counters();
    expect(prefetchBytes).toBeLessThan(70 * MIB);
    await victim.clip.ok('umount', victim.place);
    const { prefetchUsefulBytes, prefetchWastedBytes, prefetchBytes: after } = await victim.counters();
    expect(prefetchUsefulBytes! + prefetchWastedBytes!).toBe(after);
    expect(prefetchWastedBytes).toBeGreaterThan(50 * MIB);
    await cache.close?.();
  }, 180_000);
});

test('optimize takes the kept profile, or the shared one, when it is given none', async () => {
  const directory = indexer.path('for-optimize');
  mkdirSync(directory);
  const recorder = await Machine.create();
  const none = await recorder.clip.run(['optimize', archive, '--out', recorder.clip.path('none.clip')]);
  expect([none.code, none.stderr]).toEqual([3, expect.stringContaining('no profile')]);
  await recorder.mount('--content-cache', `dir:${directory}`);
  await recorder.start();
  await recorder.publish(`dir:${directory}`);
  const kept = recorder.clip.path('kept.clip');
  await recorder.clip.ok('optimize', archive, '--out', kept);
  const other = await Machine.create();
  const shared = other.clip.path('shared.clip');
  await other.clip.ok('optimize', archive, '--out', shared, '--content-cache', `dir:${directory}`);
  for (const made of [kept, shared]) {
    const opened = ArchiveFile.open(made);
    opened.close();
    expect(opened.archive.profile!.source).toBe('recorded');
  }
  expect(readFileSync(shared)).toEqual(readFileSync(kept));
}, 120_000);

test('a damaged profile in the cache directory costs the profile, not the mount', async () => {
  const machine = await Machine.create();
  await machine.mount();
  await machine.start();
  await machine.clip.ok('umount', machine.place);
  const directory = machine.clip.path('cache', 'profiles');
  const [name] = readdirSync(directory);
  writeFileSync(join(directory, name!), '{"format":');
  await machine.mount();
  await machine.start();
  expect(await machine.counters()).toMatchObject({ profilesRefused: 1, profilesFoundKept: 0 });
  await machine.clip.ok('umount', machine.place);
  await machine.mount();
  expect(await machine.prefetches()).toMatchObject([{ from: 'kept' }]);
}, 60_000);
