import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readSync,
  rmSync,
  statfsSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeEach, expect, test, vi } from 'vitest';
import { type LazyTestLayer, lazyStage } from '../../test/support/lazy-layers.js';
import { compressibleBytes, FakeSource, gzipLayer, type TestLayer, tarLayer } from '../../test/support/span-layers.js';
import { SpanCache } from '../cache/index.js';
import type { LayerClaim } from './layer-claim.js';
import { LayerSet } from './layer-set.js';

const SPAN = 64 * 1024;
const raw = compressibleBytes(32 * SPAN);
const layer = gzipLayer(raw, SPAN);
const mayMount = process.getuid?.() === 0;
const mayLoop = mayMount && existsSync('/dev/loop-control');

const stage = lazyStage(1);
let disk: string;

beforeEach(() => {
  disk = join(stage.dir, 'disk');
  mkdirSync(disk);
});

/** A disk of 1 MiB, half of what the layer needs. */
function mountSmallDisk(): void {
  run('mount', '-t', 'tmpfs', '-o', 'size=1m', 'clip-test', disk);
  stage.cleanup.push(() => run('umount', '-l', disk));
}

function run(command: string, ...args: string[]): void {
  const { status, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}`);
}

/** A disk that claims more room than the 64 MiB it has, and finds out when it writes back: ext4 on a loop device. */
function mountThinDisk(room: string): { image: string; device: string } {
  const back = join(stage.dir, 'back');
  mkdirSync(back);
  run('mount', '-t', 'tmpfs', '-o', `size=${room}`, 'clip-test', back);
  stage.cleanup.push(() => run('umount', '-l', back));
  const image = join(back, 'image');
  run('truncate', '-s', '64M', image);
  run('mkfs.ext4', '-q', '-F', '-O', '^has_journal', '-N', '16', '-m', '0', image);
  run('mount', '-o', 'loop,errors=remount-ro', image, disk);
  stage.cleanup.push(() => run('umount', disk));
  const device = spawnSync('findmnt', ['-no', 'SOURCE', disk], { encoding: 'utf8' }).stdout.trim().split('/').at(-1)!;
  return { image, device };
}

/** The page cache's clean pages go, and with them what only it knew. */
function dropCaches(): void {
  writeFileSync('/proc/sys/vm/drop_caches', '1');
}

const open = (memoryBytes = 1 << 20, which: TestLayer = layer): Promise<LazyTestLayer & { source: FakeSource }> =>
  stage.open(which, { directory: join(disk, 'cache'), memoryBytes });

async function readAll(opened: LayerClaim, expected = raw): Promise<void> {
  for (let at = 0; at < expected.length; at += 100_000) {
    const length = Math.min(100_000, expected.length - at);
    const got = await opened.read(at, length);
    expect(Buffer.compare(got, expected.subarray(at, at + length)), `bytes from ${at}`).toBe(0);
  }
}

function present(opened: LayerClaim): number {
  return opened.layer.shared.generations.reduce((sum, generation) => sum + (generation & 1), 0);
}

/** What memory had moves to disk behind the reads. */
async function allPresent(opened: LayerClaim): Promise<void> {
  await vi.waitUntil(() => present(opened) === layer.table.count, { timeout: 10_000 });
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
    const { bavail, bsize, blocks } = statfsSync(disk);
    expect(bavail * bsize).toBeGreaterThan(0);
    // What it began to write is neither counted as cached for long nor taken for spans that something has damaged.
    await vi.waitUntil(() => cache.stats().usedBytes <= blocks * bsize, { timeout: 10_000 });
    await readAll(opened);
    const again = metrics.snapshot();
    expect(again.spansDamaged).toBe(0);

    run('mount', '-o', 'remount,size=16m', disk);
    await new Promise((resolve) => setTimeout(resolve, 2100));
    await readAll(opened);
    // What memory had moves to disk behind the reads.
    await vi.waitUntil(() => metrics.snapshot().memoryCacheBytes === 0, { timeout: 10_000 });
    expect(cache.stats().writable).toBe(true);
    expect(metrics.snapshot().cacheWriteErrors).toBe(again.cacheWriteErrors);
    expect(present(opened)).toBe(layer.table.count);
  },
);

test.runIf(mayMount)(
  'a disk that is read-only from the start: served without caching, until it can be written, without a new mount',
  async () => {
    mountSmallDisk();
    run('mount', '-o', 'remount,ro', disk);
    const { opened, metrics, source, cache } = await open();
    await readAll(opened);
    expect(metrics.snapshot()).toMatchObject({ failedSpans: 0, cacheUsedBytes: 0, cacheWritable: 0 });
    expect(metrics.snapshot().cacheWriteErrors).toBeGreaterThan(0);
    const before = source.requests.length;
    const last = raw.length - 5000;
    await opened.read(last, 5000); // from memory
    expect(source.requests.length).toBe(before);

    run('mount', '-o', 'remount,rw,size=16m', disk);
    for (let i = 0; i < 40 && present(opened) === 0; i++) {
      await sleep(100);
      await opened.read(0, 100);
    }
    await readAll(opened);
    await allPresent(opened);
    expect(cache.stats()).toMatchObject({ writable: true, mountedLayers: 1 });
    const { fd } = opened.layer.shared;
    // The descriptor that FUSE threads were given is the file now.
    expect(Buffer.compare(readSpan(fd, 3), raw.subarray(3 * SPAN, 4 * SPAN))).toBe(0);
  },
);

test.runIf(mayMount)(
  'a disk that is read-only at open: what an earlier run left is served once it is checked, and written again when it can be',
  async () => {
    mountSmallDisk();
    const first = await open();
    await first.opened.read(0, 5 * SPAN);
    const { path } = first.opened.layer.cached;
    for (const undo of stage.cleanup.splice(1)) undo();
    const file = openSync(path, 'r+');
    writeSync(file, 'damage', 2 * SPAN);
    closeSync(file);
    run('mount', '-o', 'remount,ro', disk);

    const { opened, metrics, source, cache } = await open();
    for (const span of [0, 1, 3, 4]) {
      const got = await opened.read(span * SPAN, SPAN);
      expect(Buffer.compare(got, raw.subarray(span * SPAN, (span + 1) * SPAN))).toBe(0);
    }
    expect(source.requests).toEqual([]);
    await readAll(opened);
    const readOnly = metrics.snapshot();
    expect(readOnly).toMatchObject({ spansChecked: 4, spansDamaged: 1, failedSpans: 0, cacheWritable: 0 });
    expect(readOnly.cacheWriteErrors).toBeGreaterThan(0);
    expect(readOnly.cacheUsedBytes).toBe(5 * SPAN); // what is damaged cannot be freed
    expect(cache.prune(0)).toBe(0); // nothing can be freed there
    expect(present(opened)).toBe(4);
    await expect(SpanCache.open(join(disk, 'cache'))).rejects.toMatchObject({ code: 'BUSY' });

    run('mount', '-o', 'remount,rw,size=16m', disk);
    for (let i = 0; i < 40 && !cache.stats().writable; i++) {
      await sleep(100);
      await opened.read(2 * SPAN, 100);
    }
    await readAll(opened);
    await allPresent(opened);
    expect(cache.usedBytes).toBe(layer.table.count * SPAN);
    expect(cache.stats()).toMatchObject({ writable: true, mountedLayers: 1, unmountedLayers: 0 });
    expect(metrics.snapshot().failedSpans).toBe(0);
    const { fd } = opened.layer.shared;
    for (const span of [0, 2, 4]) {
      expect(Buffer.compare(readSpan(fd, span), raw.subarray(span * SPAN, (span + 1) * SPAN))).toBe(0);
    }
  },
);

function readSpan(fd: number, span: number): Buffer {
  const bytes = Buffer.alloc(SPAN);
  readSync(fd, bytes, 0, SPAN, span * SPAN);
  return bytes;
}

test.runIf(mayLoop)(
  'a disk that turns read-only under a mount: what it has is served, nothing new is cached',
  async () => {
    const { device } = mountThinDisk('40m');
    const { opened, metrics, source } = await open();
    await opened.read(0, 3 * SPAN);
    run('sync', '-f', disk);
    writeFileSync(`/sys/fs/ext4/${device}/trigger_fs_error`, '1'); // as a broken disk does it, writers or not
    await readAll(opened);
    expect(metrics.snapshot()).toMatchObject({ failedSpans: 0, cacheWritable: 0 });
    expect(metrics.snapshot().cacheWriteErrors).toBeGreaterThan(0);
    expect(present(opened)).toBe(3);
    expect(source.requests.filter((r) => r.start === 0)).toHaveLength(1);
  },
);

test.runIf(mayLoop)(
  'what the disk refuses after the kernel had taken it is found out, dropped, and fetched again',
  async () => {
    mountThinDisk('12m');
    const bytes = randomBytes(24 * 1024 * 1024);
    const big = tarLayer(bytes, 256 * 1024);
    const { opened, metrics, cache } = await open(0, big);
    await readAll(opened, bytes);
    expect(present(opened)).toBe(big.table.count);
    expect(metrics.snapshot().cacheWriteErrors).toBe(0);
    spawnSync('sync', ['-f', disk]); // says that it failed, to itself
    // Somebody else's sync has heard of it; our descriptor has not yet.
    for (let i = 0; i < 50 && metrics.snapshot().cacheWriteErrors === 0; i++) await sleep(100);
    expect(present(opened)).toBe(0);
    expect(cache.usedBytes).toBe(0);
    dropCaches();
    await readAll(opened, bytes); // half of it reads as zeros from that disk
    expect(metrics.snapshot()).toMatchObject({ failedSpans: 0, badContent: 0 });
  },
);

test.runIf(mayLoop)('a disk that cannot read back what it has: every byte is served, from the source', async () => {
  const { image } = mountThinDisk('40m');
  const { opened, metrics, source } = await open();
  await readAll(opened);
  run('sync', '-f', disk);
  const before = source.requests.length;
  truncateSync(image, 100_000); // a loop device without its file's blocks answers EIO
  dropCaches();
  await readAll(opened);
  const { cacheReadErrors, failedSpans } = metrics.snapshot();
  expect(cacheReadErrors).toBeGreaterThan(0);
  expect(failedSpans).toBe(0);
  expect(source.requests.length).toBeGreaterThan(before);
  truncateSync(image, 64 * 1024 * 1024);
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

test('a layer whose cache file cannot be opened is served without, until it can', async () => {
  const first = await open();
  await first.opened.read(0, 100);
  const { path } = first.opened.layer.cached;
  for (const undo of stage.cleanup.splice(0)) undo();
  rmSync(path);
  mkdirSync(path); // a directory in its place
  writeFileSync(join(path, 'x'), '');
  const cache = await SpanCache.open(join(disk, 'cache'), { maxBytes: 1 << 30 });
  rmSync(path, { recursive: true, force: true });
  mkdirSync(path);
  const opened = new LayerSet({ cache, pool: stage.pool, readahead: false }).open({
    ...layer,
    source: new FakeSource(layer.blob),
  });
  stage.cleanup.push(() => {
    opened.close();
    cache.close();
  });
  expect(opened.layer.cached.attached).toBe(false);
  await readAll(opened);
  rmSync(path, { recursive: true, force: true });
  // Asked again after a second, at the next miss: what memory had room for only is one.
  for (let i = 0; i < 40 && present(opened) === 0; i++) {
    await sleep(100);
    await opened.read(0, 100);
  }
  expect(present(opened)).toBeGreaterThan(0);
});

test.runIf(mayMount)(
  'a patient fill waits for a disk that is full, and completes the layer when it is not',
  async () => {
    mountSmallDisk();
    const { opened, metrics, set } = await open();
    const { progress, finished } = set.fill([opened], { quietMs: 0, bytesPerSecond: 1e9, patient: true });
    for (let i = 0; i < 50 && metrics.snapshot().cacheWriteErrors === 0; i++) await sleep(20);
    expect(progress.done).toBeLessThan(layer.table.count);
    run('mount', '-o', 'remount,size=16m', disk);
    await finished;
    expect(progress).toMatchObject({ total: layer.table.count, failed: 0 });
    // What made room for others on the full disk may be gone again: all the rest is there.
    await readAll(opened);
    expect(metrics.snapshot()).toMatchObject({ failedSpans: 0, cacheWritable: 1 });
    expect(metrics.snapshot().fillUsefulBytes).toBeGreaterThan(0);
  },
);
