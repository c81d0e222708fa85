import { randomBytes } from 'node:crypto';
import { createServer } from 'node:net';
import { describe, expect, test } from 'vitest';
import { cutter, S3_CREDENTIALS, type ServerProcess, startRedis, startS3 } from '../../test/support/content-servers.js';
import { lazyStage } from '../../test/support/lazy-layers.js';
import { compressibleBytes, type FakeSource, gzipLayer } from '../../test/support/span-layers.js';
import { type ContentCache, ContentTier, MemoryContentCache, openContentCache } from '../cache/index.js';
import { Metrics } from '../metrics/index.js';
import type { LayerClaim } from './layer-claim.js';
import type { LayerSet } from './layer-set.js';

const SPAN = 64 * 1024;
const raw = compressibleBytes(16 * SPAN);
const layer = gzipLayer(raw, SPAN);
const options = { routingKey: 'sha256:layer' };
const stage = lazyStage(1);

async function* pieces(bytes: Uint8Array, size = 100_000): AsyncIterable<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

interface Machine {
  source: FakeSource;
  metrics: Metrics;
  set: LayerSet;
  opened: LayerClaim;
  readAll(): Promise<void>;
  prefetchAll(): Promise<unknown>;
  read(offset: number): Promise<void>;
}

/** One machine with a disk cache of its own. */
async function machine(contentCache: ContentCache): Promise<Machine> {
  const { opened, source, metrics, set } = await stage.open(layer, { contentCache });
  const check = async (offset: number, length: number): Promise<void> => {
    const got = await opened.read(offset, length);
    expect(Buffer.compare(got, raw.subarray(offset, offset + length))).toBe(0);
  };
  const span = Uint32Array.from({ length: layer.table.count }, (_, i) => i);
  return {
    source,
    metrics,
    set,
    opened,
    readAll: () => check(0, raw.length),
    prefetchAll: () => set.prefetch([opened], { layer: span.map(() => 0), span }).finished,
    read: (offset) => check(offset, 100),
  };
}

describe('a shared content cache', () => {
  test('what one machine fetched, the next one does not ask the registry for', async () => {
    const shared = new MemoryContentCache(1 << 30);
    const first = await machine(shared);
    await first.readAll();
    await first.set.contentIdle();
    expect(first.metrics.snapshot()).toMatchObject({ contentStored: layer.table.count, contentHits: 0 });
    const second = await machine(shared);
    await second.readAll();
    expect(second.source.requests).toHaveLength(0);
    expect(second.metrics.snapshot()).toMatchObject({
      contentHits: layer.table.count,
      demandBytes: 0,
      contentStored: 0,
    });
  });

  test('poisoned entries are detected, counted, never served, and replaced', async () => {
    const shared = new MemoryContentCache(1 << 30);
    const first = await machine(shared);
    await first.readAll();
    await first.set.contentIdle();
    const victim = Buffer.from(layer.table.sha256.subarray(32 * 3, 32 * 4)).toString('hex');
    const length = Math.ceil(layer.table.bitOffset[4]! / 8) - Math.floor(layer.table.bitOffset[3]! / 8);
    await shared.storeContent(pieces(randomBytes(length)), victim, options);
    const second = await machine(shared);
    await second.readAll();
    expect(second.source.requests).toHaveLength(1);
    expect(second.metrics.snapshot()).toMatchObject({ contentPoisoned: 1, digestMismatches: 0, failedSpans: 0 });
    await second.set.contentIdle();
    const third = await machine(shared);
    await third.readAll();
    expect(third.source.requests).toHaveLength(0);
  });

  test('one that hangs costs a reader 50 ms, the next ones nothing, and is probed again later', async () => {
    let hang = true;
    const inner = new MemoryContentCache(1 << 30);
    const shared: ContentCache = {
      getContent: (...args) => (hang ? new Promise(() => {}) : inner.getContent(...args)),
      storeContent: (...args) => (hang ? new Promise(() => {}) : inner.storeContent(...args)),
    };
    const { read, metrics } = await machine(shared);
    for (let i = 0; i < 3; i++) {
      await read(i * SPAN); // would never end if it waited for the cache
      expect(metrics.snapshot()).toMatchObject({ contentTimeouts: i + 1 });
    }
    for (let i = 3; i < 8; i++) await read(i * SPAN);
    // Not asked at all: five reads skipped it, none more ran into its budget.
    expect(metrics.snapshot()).toMatchObject({ contentTimeouts: 3, contentSkipped: 5, contentAvailable: 0 });
    hang = false;
    await new Promise((resolve) => setTimeout(resolve, 1050));
    // It may be asked again; that it is there nobody knows yet.
    expect(metrics.snapshot()).toMatchObject({ contentAvailable: 0 });
    await read(8 * SPAN);
    await read(9 * SPAN);
    expect(metrics.snapshot()).toMatchObject({ contentAvailable: 1, contentMisses: 2 });
  });

  test('the queue of what is to be stored drops rather than grows', async () => {
    let release: () => void = () => {};
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    let stores = 0;
    const shared: ContentCache = {
      getContent: async () => null,
      storeContent: async (_chunks, name) => {
        stores++;
        await gate;
        return name;
      },
    };
    const metrics = new Metrics();
    const tier = new ContentTier(shared, { metrics, maxQueueBytes: 10_000 });
    for (let i = 0; i < 20; i++) {
      const name = i.toString(16).padStart(64, '0');
      if (tier.wants(name, 1000)) tier.put(name, new Uint8Array(1000), 'x');
      expect(tier.wants(name, 1000)).toBe(false); // single-flight
    }
    expect(metrics.snapshot().contentQueueBytes).toBe(10_000);
    release();
    await tier.idle();
    expect(stores).toBe(10);
  });

  test('what was stored and has gone since is stored again, once it was missed', async () => {
    const shared = new MemoryContentCache(1 << 20);
    const metrics = new Metrics();
    let lost = false;
    const tier = new ContentTier(
      {
        getContent: async (...args) => (lost ? null : shared.getContent(...args)),
        storeContent: (...args) => shared.storeContent(...args),
      },
      { metrics },
    );
    const name = '7'.repeat(64);
    const fetched = async (): Promise<void> => {
      if ((await tier.get(name, 10, 'x', { waiting: true })) !== null) return;
      if (tier.wants(name, 10)) tier.put(name, new Uint8Array(10), 'x');
      expect(tier.wants(name, 10)).toBe(false);
      await tier.idle();
    };
    await fetched();
    await fetched();
    expect(metrics.snapshot()).toMatchObject({ contentHits: 1, contentMisses: 1, contentStored: 1 });
    lost = true;
    await fetched();
    expect(metrics.snapshot()).toMatchObject({ contentHits: 1, contentMisses: 2, contentStored: 2 });
    await tier.close();
  });

  test('a store that hangs is given up, and the cache is filled again when it works', async () => {
    const inner = new MemoryContentCache(1 << 20);
    let hang = true;
    const aborted: boolean[] = [];
    const shared: ContentCache = {
      getContent: (...args) => inner.getContent(...args),
      storeContent: (chunks, name, { routingKey, signal }) => {
        if (!hang) return inner.storeContent(chunks, name, { routingKey });
        signal?.addEventListener('abort', () => aborted.push(true));
        return new Promise(() => {});
      },
    };
    const metrics = new Metrics();
    const tier = new ContentTier(shared, { metrics, storeBudgetMs: 30 });
    const put = async (digit: string): Promise<void> => {
      const name = digit.repeat(64);
      if (tier.wants(name, 10)) tier.put(name, new Uint8Array(10), 'x');
      await tier.idle();
    };
    for (const digit of '12345678') await put(digit);
    // Three of them, then it is not asked any more.
    expect(aborted).toHaveLength(3);
    expect(metrics.snapshot()).toMatchObject({
      contentErrors: 3,
      contentDropped: 5,
      contentStored: 0,
      contentAvailable: 0,
      contentQueueBytes: 0,
    });
    hang = false;
    await new Promise((resolve) => setTimeout(resolve, 1050));
    await put('1');
    await put('9');
    expect(metrics.snapshot()).toMatchObject({ contentStored: 2, contentAvailable: 1 });
    await tier.close();
  });

  test('one that answers, but not within 50 ms, is filled all the same, and serves what is fetched ahead', async () => {
    const inner = new MemoryContentCache(1 << 30);
    const shared: ContentCache = {
      getContent: async (...args) => {
        await new Promise((resolve) => setTimeout(resolve, 120));
        return inner.getContent(...args);
      },
      storeContent: (...args) => inner.storeContent(...args),
    };
    const first = await machine(shared);
    for (let at = 0; at < raw.length; at += SPAN) await first.read(at);
    await first.set.contentIdle();
    const { count } = layer.table;
    const told = first.metrics.snapshot();
    expect(told).toMatchObject({ contentStored: count, contentDropped: 0 });
    // Three, and one more for each second or more that the reads take on a busy machine: then it is tried again.
    expect(told.contentTimeouts).toBeGreaterThanOrEqual(3);
    expect(told.contentTimeouts).toBeLessThan(count);
    const second = await machine(shared);
    await second.prefetchAll();
    expect(second.metrics.snapshot()).toMatchObject({ contentHits: count });
    expect(second.source.requests).toHaveLength(0);
  });

  test('one that answers a burst of lookups one after the other is waited for', async () => {
    let last: Promise<unknown> = Promise.resolve();
    const metrics = new Metrics();
    const answer = (name: string): Uint8Array => Buffer.from(name, 'latin1');
    const tier = new ContentTier(
      {
        getContent: async (name) => {
          // Slow enough that the last of sixteen comes after the first one's budget.
          last = last.then(() => new Promise((resolve) => setTimeout(resolve, 50)));
          await last;
          return answer(name);
        },
        storeContent: async (_chunks, name) => name,
      },
      // Ten times the default, for machines on which a timer of 50 ms comes after 150.
      { metrics, budgetMs: 500 },
    );
    const names = Array.from({ length: 16 }, (_, i) => i.toString(16).repeat(64));
    const found = await Promise.all(names.map((name) => tier.get(name, 64, 'x', { waiting: true })));
    expect(found).toEqual(names.map(answer));
    expect(metrics.snapshot()).toMatchObject({ contentHits: 16, contentTimeouts: 0 });
    await tier.close();
  });

  test('a reader who comes to wait for what is looked up ahead waits 50 ms, not the 2 s that nobody minds', async () => {
    const tier = new ContentTier({
      getContent: () => new Promise(() => {}),
      storeContent: async (_chunks, name) => name,
    });
    let hurry: () => void = () => {};
    let given = false;
    const lookup = tier
      .get('ab'.repeat(32), 10, 'x', {
        waiting: false,
        onUrgent: (call) => {
          hurry = call;
        },
      })
      .then((bytes) => {
        given = true;
        return bytes;
      });
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(given).toBe(false);
    hurry();
    const second = new Promise((resolve) => setTimeout(() => resolve('late'), 1000));
    expect(await Promise.race([lookup, second])).toBeNull();
    await tier.close();
  });

  test('a read that joins a prefetch whose lookup hangs does not wait for it', async () => {
    const { prefetchAll, source, metrics, opened } = await machine({
      getContent: () => new Promise(() => {}),
      storeContent: async (_chunks, name) => name,
    });
    const prefetched = prefetchAll();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(source.requests).toHaveLength(0);
    const late = new Promise((resolve) => setTimeout(() => resolve('late'), 1500));
    expect(await Promise.race([opened.read(3 * SPAN, 100), late])).not.toBe('late');
    expect(metrics.snapshot().contentTimeouts).toBe(layer.table.count);
    await prefetched;
  });

  const servers: Record<string, { start: (port?: number) => Promise<ServerProcess>; url: (port: number) => string }> = {
    Redis: { start: startRedis, url: (port) => `redis://127.0.0.1:${port}` },
    S3: { start: startS3, url: (port) => `s3://clip/x?endpoint=http://127.0.0.1:${port}` },
  };

  describe.each(Object.entries(servers))('%s', (_name, { start, url }) => {
    async function started(port?: number): Promise<ServerProcess> {
      const server = await start(port);
      stage.cleanup.push(() => server.stop());
      return server;
    }
    function cacheAt(port: number): ContentCache {
      const cache = openContentCache(url(port), { credentials: S3_CREDENTIALS });
      stage.cleanup.push(() => cache.close?.());
      return cache;
    }

    test('killed in mid-read: every byte is served, and it is used again when it is back', async () => {
      const server = await started();
      const shared = cacheAt(server.port);
      const first = await machine(shared);
      await first.set.contentReady(5000);
      await first.read(0);
      await first.set.contentIdle();
      expect(first.metrics.snapshot()).toMatchObject({ contentStored: 1, contentErrors: 0 });
      const reading = first.readAll();
      await server.kill();
      await reading;
      expect(first.metrics.snapshot()).toMatchObject({ failedSpans: 0 });
      await started(server.port);
      // The client reconnects by itself; then one machine fills it and the next one needs no registry. Nobody waits here, so
      // that a loaded machine does not miss 50 ms.
      let requests = -1;
      for (let i = 0; i < 20 && requests !== 0; i++) {
        const next = await machine(shared);
        await next.prefetchAll();
        await next.set.contentIdle();
        await next.readAll();
        requests = next.source.requests.length;
        if (requests > 0) await new Promise((resolve) => setTimeout(resolve, 250));
      }
      expect(requests).toBe(0);
    });

    test('connections that break in mid-answer: every byte is served, and none twice or in part', async () => {
      const server = await started();
      const direct = cacheAt(server.port);
      await direct.connect?.();
      for (let span = 0; span < layer.table.count; span++) {
        const name = Buffer.from(layer.table.sha256.subarray(32 * span, 32 * span + 32)).toString('hex');
        const { bitOffset } = layer.table;
        const bytes = layer.blob.subarray(Math.floor(bitOffset[span]! / 8), Math.ceil(bitOffset[span + 1]! / 8));
        await direct.storeContent(pieces(bytes), name, options);
      }
      const between = await cutter(server.port);
      stage.cleanup.push(() => between.close());
      const second = await machine(cacheAt(between.port));
      await second.set.contentReady(5000);
      between.after = 10_000; // half a span
      for (let at = 0; at < raw.length; at += SPAN) await second.read(at);
      await second.readAll();
      expect(between.cuts).toBeGreaterThan(0);
      expect(second.metrics.snapshot()).toMatchObject({ failedSpans: 0, contentPoisoned: 0 });
      expect(second.metrics.snapshot().contentErrors).toBeGreaterThan(0);
      expect(second.source.requests.length).toBeGreaterThan(0);
    });
  });

  test('a Redis that accepts connections and never answers does not delay reads beyond the budget', async () => {
    const server = createServer(() => {});
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    stage.cleanup.push(() => server.close());
    const { port } = server.address() as { port: number };
    const shared = openContentCache(`redis://127.0.0.1:${port}`);
    stage.cleanup.push(() => shared.close?.());
    const { read, metrics } = await machine(shared);
    for (let i = 0; i < 10; i++) await read(i * SPAN);
    // Three budgets of 50 ms are all it may cost; the rest did not ask. After a second, on a busy machine, it is known that there is no connection.
    const { contentTimeouts = 0, contentErrors = 0, contentSkipped, contentAvailable } = metrics.snapshot();
    expect(contentTimeouts).toBeGreaterThan(0);
    expect([contentTimeouts + contentErrors, contentSkipped, contentAvailable]).toEqual([3, 7, 0]);
  });
});
