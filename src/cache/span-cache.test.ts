import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { compressibleBytes, tarLayer } from '../../test/support/span-layers.js';
import { Metrics } from '../metrics/index.js';
import type { SharedLayer } from '../spans/shared-layer.js';
import type { CachedLayer } from './cached-layer.js';
import { SpanCache } from './span-cache.js';

const SPAN = 32 * 1024;
const small = tarLayer(compressibleBytes(16 * SPAN), SPAN);
const other = tarLayer(compressibleBytes(16 * SPAN, 2), SPAN);
let dir: string;
const open: SpanCache[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'clip-cache-'));
});
afterEach(() => {
  for (const cache of open.splice(0)) cache.close();
  rmSync(dir, { recursive: true, force: true });
});

async function openCache(maxBytes: number, metrics = new Metrics()): Promise<SpanCache> {
  const cache = await SpanCache.open(dir, { maxBytes, metrics });
  open.push(cache);
  return cache;
}

/** What an inflate worker does. */
function fill(
  cache: SpanCache,
  layer: CachedLayer,
  span: number,
  raw: Uint8Array,
  right: 'anything' | 'unmounted' = 'anything',
): boolean {
  layer.hold(span);
  const kept = cache.reserve(layer, span, right);
  if (kept) {
    layer.shared.lastUse[span] = cache.tick();
    const [start, end] = [layer.shared.offsets[span]!, layer.shared.offsets[span + 1]!];
    writeSync(layer.shared.fd, raw, start, end - start, start);
    Atomics.add(layer.shared.generations, span, 1);
  }
  layer.unhold(span);
  return kept;
}

const present = (layer: CachedLayer): number[] =>
  Array.from({ length: layer.count }, (_, i) => i).filter((i) => layer.present(i));

describe('the cap', () => {
  test('the least recently used spans go first, and their disk blocks with them', async () => {
    const cache = await openCache(8 * SPAN);
    const layer = cache.layer(small.meta.digest, small.table);
    for (let i = 0; i < 8; i++) fill(cache, layer, i, small.raw);
    layer.shared.lastUse[0] = cache.tick();
    for (let i = 8; i < 11; i++) fill(cache, layer, i, small.raw);
    expect(present(layer)).toEqual([0, 4, 5, 6, 7, 8, 9, 10]);
    expect(cache.usedBytes).toBe(8 * SPAN);
    expect(statSync(layer.path).blocks * 512).toBe(8 * SPAN);
    expect(layer.shared.generations[1]).toBe(2);
    fill(cache, layer, 1, small.raw);
    expect(layer.shared.generations[1]).toBe(3);
  });

  test('held spans stay; then a fill is refused rather than the cap broken', async () => {
    const metrics = new Metrics();
    const cache = await openCache(3 * SPAN, metrics);
    const layer = cache.layer(small.meta.digest, small.table);
    for (let i = 0; i < 3; i++) fill(cache, layer, i, small.raw);
    for (let i = 0; i < 3; i++) layer.hold(i);
    expect(fill(cache, layer, 5, small.raw)).toBe(false);
    expect(present(layer)).toEqual([0, 1, 2]);
    expect(metrics.snapshot()).toMatchObject({ cacheRefusedFills: 1, cacheEvictedSpans: 0 });
    for (let i = 0; i < 3; i++) layer.unhold(i);
    expect(fill(cache, layer, 5, small.raw)).toBe(true);
  });

  test('layers nobody mounts go before spans that are in use, the longest unmounted first', async () => {
    const cache = await openCache(20 * SPAN);
    const third = tarLayer(compressibleBytes(16 * SPAN, 3), SPAN);
    const a = cache.layer(small.meta.digest, small.table);
    for (let i = 0; i < 4; i++) fill(cache, a, i, small.raw);
    const b = cache.layer(other.meta.digest, other.table);
    for (let i = 0; i < 4; i++) fill(cache, b, i, other.raw);
    const c = cache.layer(third.meta.digest, third.table);
    for (let i = 0; i < 10; i++) fill(cache, c, i, third.raw);
    cache.release(b);
    cache.release(a);
    expect(cache.stats()).toMatchObject({ mountedLayers: 1, unmountedLayers: 2, usedBytes: 18 * SPAN });
    for (let i = 10; i < 14; i++) expect(fill(cache, c, i, third.raw)).toBe(true);
    expect(present(c)).toHaveLength(14);
    expect(readdirSync(join(dir, 'spans')).some((name) => name === b.key)).toBe(false);
    expect(readdirSync(join(dir, 'spans')).some((name) => name === a.key)).toBe(true);
  });

  test('prefetch takes room from unmounted layers only', async () => {
    const cache = await openCache(6 * SPAN);
    const a = cache.layer(small.meta.digest, small.table);
    for (let i = 0; i < 4; i++) fill(cache, a, i, small.raw);
    cache.release(a);
    const b = cache.layer(other.meta.digest, other.table);
    for (let i = 0; i < 6; i++) expect(fill(cache, b, i, other.raw, 'unmounted')).toBe(true);
    expect(fill(cache, b, 6, other.raw, 'unmounted')).toBe(false);
    expect(cache.hasRoom(SPAN)).toBe(false);
    expect(present(b)).toHaveLength(6);
  });

  test('a smaller cap than what an earlier run left is enforced at open, the oldest file first', async () => {
    const first = await openCache(1 << 30);
    const a = first.layer(small.meta.digest, small.table);
    const b = first.layer(other.meta.digest, other.table);
    for (let i = 0; i < 16; i++) fill(first, a, i, small.raw);
    for (let i = 0; i < 16; i++) fill(first, b, i, other.raw);
    first.close();
    open.pop();
    utimesSync(b.path, 1000, 1000);
    const second = await openCache(17 * SPAN);
    expect(second.stats()).toMatchObject({ unmountedLayers: 1, usedBytes: 16 * SPAN });
    const again = second.layer(small.meta.digest, small.table);
    expect(present(again)).toEqual([]); // nothing is believed before it is checked
    expect(again.unverified(3)).toBe(true);
    expect(second.prune(0)).toBe(16 * SPAN);
    expect(again.unverified(3)).toBe(false);
    expect(statSync(again.path).blocks).toBe(0);
  });

  test('spans smaller than a disk block free it when the last of them goes', async () => {
    const tiny = tarLayer(compressibleBytes(64 * 1024), 1000);
    const cache = await openCache(1 << 20);
    const layer = cache.layer(tiny.meta.digest, tiny.table);
    for (let i = 0; i < layer.count; i++) fill(cache, layer, i, tiny.raw);
    const before = statSync(layer.path).blocks * 512;
    expect(before).toBe(64 * 1024);
    cache.prune(32 * 1024);
    const after = statSync(layer.path).blocks * 512;
    expect(after).toBeLessThanOrEqual(36 * 1024);
    cache.prune(0);
    expect(statSync(layer.path).blocks).toBe(0);
  });

  test('a stream layer goes as a whole', async () => {
    const cache = await openCache(12 * SPAN);
    const stream = cache.layer(small.meta.digest, { ...small.table, kind: 'zstd-stream' });
    for (let i = 0; i < 6; i++) fill(cache, stream, i, small.raw);
    const b = cache.layer(other.meta.digest, other.table);
    for (let i = 0; i < 7; i++) fill(cache, b, i, other.raw);
    expect(present(stream)).toEqual([]);
    expect(present(b)).toHaveLength(7);
  });
});

describe('readers while spans are evicted', () => {
  test('a hit is never torn or stale', async () => {
    // 2 layers of 16 spans under a cap of 6: nearly every fill evicts.
    const cache = await openCache(6 * SPAN);
    const layers = [cache.layer(small.meta.digest, small.table), cache.layer(other.meta.digest, other.table)];
    const raws = [small.raw, other.raw];
    const stop = new Int32Array(new SharedArrayBuffer(4));
    const readers = [1, 2].map((seed) => {
      const worker = new Worker(new URL('./hit-reader.fixture.js', import.meta.url), {
        workerData: { layers: layers.map((l): SharedLayer => l.shared), expected: raws, stop, seed },
      });
      return new Promise<{ hits: number; changed: number; wrong: number }>((resolve, reject) => {
        worker.on('message', resolve);
        worker.on('error', reject);
      });
    });
    const end = performance.now() + 3000;
    for (let i = 0; performance.now() < end; i++) {
      const which = (i * 7) % 2;
      const span = (i * 11 + (i >> 4)) % 16;
      // First garbage, which must stay unseen because the generation is even, then the bytes.
      const layer = layers[which]!;
      if (!layer.present(span)) {
        layer.hold(span);
        if (cache.reserve(layer, span, 'anything'))
          writeSync(layer.shared.fd, raws[1 - which]!, 0, SPAN, layer.shared.offsets[span]!);
        layer.unhold(span);
        fill(cache, layer, span, raws[which]!);
      }
      if (i % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    Atomics.store(stop, 0, 1);
    for (const { hits, wrong } of await Promise.all(readers)) {
      expect(wrong).toBe(0);
      expect(hits).toBeGreaterThan(100);
    }
  });
});

describe('the directory', () => {
  test('a second process is told who owns it; the lock goes with its owner', async () => {
    const script = `
      import { SpanCache } from ${JSON.stringify(new URL('./index.js', import.meta.url).href)};
      await SpanCache.open(${JSON.stringify(dir)}, { owner: 'clipd' });
      console.log('open'); setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      await new Promise((resolve) => child.stdout.once('data', resolve));
      await expect(SpanCache.open(dir)).rejects.toMatchObject({
        code: 'BUSY',
        message: `cache directory ${dir} is in use by clipd (pid ${child.pid})`,
      });
    } finally {
      child.kill('SIGKILL');
      await new Promise((resolve) => child.once('exit', resolve));
    }
    await openCache(1000);
  });

  test('a path that is a file, or that lies in one, is an error that says so', async () => {
    writeFileSync(join(dir, 'file'), 'x');
    await expect(SpanCache.open(join(dir, 'file'))).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringMatching(/file is not a directory/),
    });
  });

  test('what is none of ours beside our names is left alone; strangers among the spans are removed', async () => {
    writeFileSync(join(dir, 'precious'), 'x');
    mkdirSync(join(dir, 'spans'));
    writeFileSync(join(dir, 'spans/junk'), 'x');
    await openCache(1000);
    expect(readdirSync(dir).sort()).toEqual(['lock', 'precious', 'spans', 'version']);
    expect(readdirSync(join(dir, 'spans'))).toEqual([]);
  });
});
