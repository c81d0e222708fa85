import { spawnSync } from 'node:child_process';
import { ftruncateSync, mkdirSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { compressibleBytes, FakeSource, gzipLayer } from '../../test/support/span-layers.js';
import { SpanCache } from '../cache/index.js';
import { Metrics } from '../metrics/index.js';
import { InflatePool } from './inflate-pool.js';
import { LayerSet, type OpenLayer } from './layer-set.js';

const SPAN = 64 * 1024;
const raw = compressibleBytes(32 * SPAN);
const layer = gzipLayer(raw, SPAN);
const mayMount = process.getuid?.() === 0;

let pool: InflatePool;
let dir: string;
let disk: string;
const cleanup: (() => void)[] = [];

beforeAll(() => {
  pool = new InflatePool({ workers: 1 });
});
afterAll(() => pool.close());
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'clip-disk-'));
  disk = join(dir, 'disk');
  mkdirSync(disk);
});
afterEach(() => {
  for (const undo of cleanup.splice(0).reverse()) undo();
  rmSync(dir, { recursive: true, force: true });
});

/** A disk of 1 MiB, half of what the layer needs. */
function mountSmallDisk(): void {
  run('mount', '-t', 'tmpfs', '-o', 'size=1m', 'clip-test', disk);
  cleanup.push(() => run('umount', '-l', disk));
}

function run(command: string, ...args: string[]): void {
  const { status, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}`);
}

async function open(
  memoryBytes = 1 << 20,
): Promise<{ opened: OpenLayer; source: FakeSource; metrics: Metrics; cache: SpanCache }> {
  const metrics = new Metrics();
  const cache = await SpanCache.open(join(disk, 'cache'), { metrics, maxBytes: 1 << 30 });
  const set = new LayerSet({ cache, pool, metrics, readahead: false, memoryBytes });
  const source = new FakeSource(layer.blob);
  const opened = set.open({ ...layer, source });
  cleanup.push(() => {
    opened.close();
    cache.close();
  });
  return { opened, source, metrics, cache };
}

async function readAll(opened: OpenLayer): Promise<void> {
  for (let at = 0; at < raw.length; at += 100_000) {
    const length = Math.min(100_000, raw.length - at);
    const got = await opened.layer.read(at, length);
    expect(Buffer.compare(got, raw.subarray(at, at + length))).toBe(0);
  }
}

test.runIf(mayMount)(
  'a full disk: every byte is served, what does not fit is not cached, and it recovers by itself',
  async () => {
    mountSmallDisk();
    const { opened, metrics, cache } = await open();
    await readAll(opened);
    const full = metrics.snapshot();
    expect(full.cacheWriteErrors).toBeGreaterThan(0);
    expect(full.failedSpans).toBe(0);
    expect(cache.stats().writable).toBe(false);
    // It gave some of its own back, and did not take the rest of the disk again at once.
    const { bavail, bsize } = statfsSync(disk);
    expect(bavail * bsize).toBeGreaterThan(0);

    run('mount', '-o', 'remount,size=16m', disk);
    await new Promise((resolve) => setTimeout(resolve, 2100));
    await readAll(opened);
    await new Promise((resolve) => setTimeout(resolve, 200)); // what memory had moves to disk behind the reads
    expect(cache.stats().writable).toBe(true);
    expect(metrics.snapshot().cacheWriteErrors).toBe(full.cacheWriteErrors);
    let present = 0;
    for (const generation of opened.layer.shared.generations) present += generation & 1;
    expect(present).toBe(layer.table.count);
    expect(metrics.snapshot().memoryCacheBytes).toBe(0);
  },
);

test.runIf(mayMount)('a disk that turns read-only, or was from the start: served without caching', async () => {
  mountSmallDisk();
  run('mount', '-o', 'remount,ro', disk);
  const { opened, metrics, source } = await open();
  await readAll(opened);
  expect(metrics.snapshot()).toMatchObject({ cacheWriteErrors: 1, failedSpans: 0, cacheUsedBytes: 0 });
  const before = source.requests.length;
  const last = raw.length - 5000;
  await opened.layer.read(last, 5000); // from memory
  expect(source.requests.length).toBe(before);
});

test('a cache file cut off behind our back: the bytes are fetched again, never zeros', async () => {
  const { opened, metrics } = await open();
  await readAll(opened);
  ftruncateSync(opened.layer.shared.fd, 5 * SPAN);
  await readAll(opened);
  const { cacheReadErrors, failedSpans } = metrics.snapshot();
  expect(cacheReadErrors).toBeGreaterThan(0);
  expect(failedSpans).toBe(0);
});

test('a layer whose cache file cannot be opened is served without', async () => {
  const first = await open();
  await first.opened.layer.read(0, 100);
  const { path } = first.opened.layer.cached;
  for (const undo of cleanup.splice(0)) undo();
  rmSync(path);
  mkdirSync(path); // a directory in its place
  writeFileSync(join(path, 'x'), '');
  const cache = await SpanCache.open(join(disk, 'cache'), { maxBytes: 1 << 30 });
  rmSync(path, { recursive: true, force: true });
  mkdirSync(path);
  const opened = new LayerSet({ cache, pool, readahead: false }).open({ ...layer, source: new FakeSource(layer.blob) });
  cleanup.push(() => {
    opened.close();
    cache.close();
  });
  expect(opened.layer.shared.fd).toBe(-1);
  await readAll(opened);
});
