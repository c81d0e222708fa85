import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ContentTier, MemoryContentCache } from '../cache/index.js';
import { Metrics, silentLogger } from '../metrics/index.js';
import { PROFILE_FORMAT, profilesDirectory, type RecordedProfile } from './profile.js';
import { ProfileStore } from './profile-store.js';

// Starts on machines that share a content cache, which fails now and then. What they read is made up; store, cache and files are real.

const name = { manifestDigest: `sha256:${'1'.repeat(64)}`, command: 'c'.repeat(64) };
const image = {
  manifestDigest: name.manifestDigest,
  config: {},
  layers: [{ digest: 'sha256:2', uncompressedSize: 1_000_000 }],
} as never;

function start(from: number): RecordedProfile {
  const { manifestDigest } = name;
  return {
    format: PROFILE_FORMAT,
    manifestDigest,
    layers: ['sha256:2'],
    ranges: [{ layer: 0, start: from, end: from + 1000 }],
  };
}

/** As many calls fail as it is told. */
class FailingCache extends MemoryContentCache {
  failingReads = 0;
  failingWrites = 0;

  override async getContent(...args: Parameters<MemoryContentCache['getContent']>): Promise<Uint8Array | null> {
    if (this.failingReads-- > 0) throw new Error('away for a moment');
    return super.getContent(...args);
  }

  override async storeContent(...args: Parameters<MemoryContentCache['storeContent']>): Promise<string> {
    if (this.failingWrites-- > 0) throw new Error('away for a moment');
    return super.storeContent(...args);
  }
}

let directory: string;
let cache: FailingCache;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'clip-publisher-'));
  cache = new FailingCache(10_000_000);
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
  rmSync(directory, { recursive: true, force: true });
});

interface Machine {
  readonly store: ProfileStore;
  readonly metrics: Metrics;
  counter(name: string): number;
  unpublished(): string[];
}

function machine(id: string): Machine {
  const metrics = new Metrics();
  const content = new ContentTier(cache);
  const cacheDir = join(directory, id);
  return {
    store: new ProfileStore(cacheDir, { content }, silentLogger(), metrics),
    metrics,
    counter: (counter) => metrics.counter(counter).value,
    unpublished: () => readdirSync(profilesDirectory(cacheDir)).filter((file) => file.endsWith('.start')),
  };
}

/** What a new machine finds. */
async function shared(): Promise<RecordedProfile | null> {
  return machine('reader').store.best(name, image, () => Promise.resolve(null));
}

test('a start goes out again after a pause, with its last state, and until then lies on the disk', async () => {
  const one = machine('one');
  cache.failingWrites = 2;
  const keep = one.store.begin(name, image);
  keep(start(0));
  await vi.advanceTimersByTimeAsync(1000);
  expect([one.counter('profilesPublished'), one.counter('profilesNotPublished')]).toEqual([0, 1]);
  expect(one.unpublished()).toHaveLength(1);
  keep({ ...start(0), ranges: [...start(0).ranges, ...start(500_000).ranges] });
  await vi.advanceTimersByTimeAsync(20_000);
  expect([one.counter('profilesPublished'), one.counter('profilesNotPublished')]).toEqual([1, 2]);
  expect(one.unpublished()).toEqual([]);
  expect(await shared()).toMatchObject({ starts: 1, ranges: [{ start: 0 }, { start: 500_000 }] });
});

test('the tries have an end; the next server of the machine goes on', async () => {
  const one = machine('one');
  cache.failingWrites = Number.POSITIVE_INFINITY;
  one.store.begin(name, image)(start(0));
  await vi.advanceTimersByTimeAsync(24 * 3600 * 1000);
  expect(one.counter('profilesNotPublished')).toBe(11);
  expect(one.unpublished()).toHaveLength(1);
  cache.failingWrites = 0;
  const next = machine('one');
  next.store.resume();
  await vi.advanceTimersByTimeAsync(0);
  expect(next.counter('profilesPublished')).toBe(1);
  expect(next.unpublished()).toEqual([]);
  expect(await shared()).toMatchObject({ starts: 1, ranges: [{ start: 0 }] });
});

test('what a later server hands over is added to what others have shared meanwhile', async () => {
  const one = machine('one');
  cache.failingWrites = 1;
  one.store.begin(name, image)(start(0));
  await vi.advanceTimersByTimeAsync(0);
  await one.store.idle(0); // it ends
  const other = machine('other');
  for (const from of [200_000, 200_000, 200_000]) {
    other.store.begin(name, image)(start(from));
    await vi.advanceTimersByTimeAsync(0);
  }
  expect(await shared()).toMatchObject({ starts: 3 });
  machine('one').store.resume();
  await vi.advanceTimersByTimeAsync(0);
  expect(await shared()).toMatchObject({
    starts: 4,
    ranges: [
      { start: 200_000, starts: 3 },
      { start: 0, starts: 1 },
    ],
  });
});

// Bug: a lookup that failed counted as "others know nothing", and the starts of the whole fleet were replaced by one.
test('a lookup that fails is no reason to replace what others have shared', async () => {
  const other = machine('other');
  for (let i = 0; i < 3; i++) {
    other.store.begin(name, image)(start(0));
    await vi.advanceTimersByTimeAsync(0);
  }
  const one = machine('one');
  cache.failingReads = 1;
  one.store.begin(name, image)(start(0));
  await vi.advanceTimersByTimeAsync(1000);
  expect(await shared()).toMatchObject({ starts: 3 });
  await vi.advanceTimersByTimeAsync(5000);
  expect(await shared()).toMatchObject({ starts: 4 });
});

test('the next start of the same command takes the place of one that waits', async () => {
  const one = machine('one');
  cache.failingWrites = 1;
  one.store.begin(name, image)(start(0));
  await vi.advanceTimersByTimeAsync(0);
  one.store.begin(name, image)(start(0));
  await vi.advanceTimersByTimeAsync(60_000);
  expect([one.counter('profilesPublished'), one.counter('profilesNotPublished')]).toEqual([1, 1]);
  expect(await shared()).toMatchObject({ starts: 2 });
});

test('without a content cache nothing waits on the disk; a damaged file is removed', async () => {
  const cacheDir = join(directory, 'alone');
  const alone = new ProfileStore(cacheDir, { content: null }, silentLogger(), new Metrics());
  alone.begin(name, image)(start(0));
  const kept = profilesDirectory(cacheDir);
  expect(readdirSync(kept)).toEqual([expect.stringMatching(/\.json$/)]);
  for (const [i, text] of ['', '{}', '{"command":"x"}', '[', 'null'].entries())
    writeFileSync(join(kept, `${i}.start`), text);
  const metrics = new Metrics();
  new ProfileStore(cacheDir, { content: new ContentTier(cache) }, silentLogger(), metrics).resume();
  await vi.advanceTimersByTimeAsync(0);
  expect(readdirSync(kept)).toEqual([expect.stringMatching(/\.json$/)]);
  expect(metrics.counter('profilesPublished').value).toBe(0);
});
