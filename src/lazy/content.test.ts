import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { freePort } from '../../test/support/processes.js';
import { compressibleBytes, FakeSource, gzipLayer } from '../../test/support/span-layers.js';
import {
  type ContentCache,
  DirectoryContentCache,
  MemoryContentCache,
  openContentCache,
  RedisContentCache,
  S3ContentCache,
  SpanCache,
} from '../cache/index.js';
import { Metrics } from '../metrics/index.js';
import { InflatePool } from './inflate-pool.js';
import { LayerSet } from './layer-set.js';

const SPAN = 64 * 1024;
const raw = compressibleBytes(16 * SPAN);
const layer = gzipLayer(raw, SPAN);
const hash = 'ab'.repeat(32);
const options = { routingKey: 'sha256:layer' };
let pool: InflatePool;
let dir: string;
const cleanup: (() => unknown)[] = [];

beforeAll(() => {
  pool = new InflatePool({ workers: 1 });
});
afterAll(() => pool.close());
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'clip-content-'));
});
afterEach(async () => {
  for (const undo of cleanup.splice(0).reverse()) await undo();
  rmSync(dir, { recursive: true, force: true });
});

async function* pieces(bytes: Uint8Array, size = 100_000): AsyncIterable<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function start(command: string, args: string[], port: number): Promise<ChildProcess> {
  const child = spawn(command, args, { stdio: 'ignore' });
  cleanup.push(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await new Promise((resolve) => child.once('exit', resolve));
  });
  for (let i = 0; i < 600; i++) {
    const up = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => {
        socket.destroy();
        resolve(true);
      });
      socket.on('error', () => resolve(false));
    });
    if (up) return child;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error(`${command} does not listen on ${port}`);
}

async function startRedis(port: number): Promise<ChildProcess> {
  return start('redis-server', ['--port', String(port), '--save', '', '--bind', '127.0.0.1', '--dir', dir], port);
}

const has = (command: string): boolean => spawnSync('sh', ['-c', `command -v ${command}`]).status === 0;

const engines: Record<string, { available: boolean; make: () => Promise<ContentCache> }> = {
  memory: { available: true, make: async () => new MemoryContentCache(1 << 30) },
  directory: { available: true, make: async () => new DirectoryContentCache(dir) },
  redis: {
    available: has('redis-server'),
    make: async () => {
      const port = await freePort();
      await startRedis(port);
      const cache = openContentCache(`redis://127.0.0.1:${port}`);
      cleanup.push(() => cache.close?.());
      return cache;
    },
  },
  // A real S3 protocol server, where the machine has one: moto, from PyPI.
  s3: {
    available: has('moto_server'),
    make: async () => {
      const port = await freePort();
      await start('moto_server', ['-H', '127.0.0.1', '-p', String(port)], port);
      const endpoint = `http://127.0.0.1:${port}`;
      const credentials = { accessKeyId: 'test', secretAccessKey: 'test' };
      const { S3Client, CreateBucketCommand } = await import('@aws-sdk/client-s3');
      const client = new S3Client({ endpoint, region: 'us-east-1', forcePathStyle: true, credentials });
      await client.send(new CreateBucketCommand({ Bucket: 'clip' }));
      client.destroy();
      const cache = new S3ContentCache({ bucket: 'clip', prefix: 'a/b/', endpoint, credentials });
      cleanup.push(() => cache.close());
      return cache;
    },
  },
};

describe.each(Object.entries(engines))('%s', (name, { available, make }) => {
  test.runIf(available)('keeps the contract of a ContentCache', async () => {
    const cache = await make();
    const content = randomBytes(20_000_000); // three chunks of Redis, three parts of S3
    expect(await cache.getContent(hash, 0, 10, options)).toBeNull();
    expect(await cache.has?.(hash, options)).toBe(false);
    expect(await cache.storeContent(pieces(content), hash, options)).toBe(hash);
    expect(await cache.has?.(hash, options)).toBe(true);
    for (const [offset, length] of [
      [0, content.length],
      [5, 100],
      [8 * 1024 * 1024 - 3, 7],
      [content.length - 4, 4],
    ] as const) {
      const got = await cache.getContent(hash, offset, length, options);
      expect(got?.length).toBe(length);
      expect(Buffer.compare(got!, content.subarray(offset, offset + length))).toBe(0);
    }
    expect(await cache.getContent(hash, content.length - 4, 5, options)).toBeNull();
    const failing = (async function* () {
      yield randomBytes(10);
      throw new Error('the source broke');
    })();
    await expect(cache.storeContent(failing, 'cd'.repeat(32), options)).rejects.toThrow('the source broke');
    expect(await cache.getContent('cd'.repeat(32), 0, 10, options)).toBeNull();
    await expect(cache.getContent('../../etc/passwd', 0, 10, options)).rejects.toThrow(RangeError);
    if (name === 'directory') expect(readdirSync(join(dir, 'cd'))).toEqual([]);
  });
});

interface Machine {
  source: FakeSource;
  metrics: Metrics;
  set: LayerSet;
  readAll(): Promise<void>;
  read(offset: number): Promise<void>;
}

/** One machine with a disk cache of its own. */
async function machine(contentCache: ContentCache): Promise<Machine> {
  const metrics = new Metrics();
  const cache = await SpanCache.open(mkdtempSync(join(dir, 'machine-')), { metrics, maxBytes: 1 << 30 });
  const set = new LayerSet({ cache, pool, metrics, readahead: false, contentCache });
  const source = new FakeSource(layer.blob);
  const opened = set.open({ ...layer, source });
  cleanup.push(() => {
    opened.close();
    cache.close();
  });
  const check = async (offset: number, length: number): Promise<void> => {
    const got = await opened.layer.read(offset, length);
    expect(Buffer.compare(got, raw.subarray(offset, offset + length))).toBe(0);
  };
  return { source, metrics, set, readAll: () => check(0, raw.length), read: (offset) => check(offset, 100) };
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
    const { ContentTier } = await import('../cache/index.js');
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

  test.runIf(engines.redis!.available)(
    'Redis killed in mid-read: every byte is served, and it is used again when it is back',
    async () => {
      const port = await freePort();
      const server = await startRedis(port);
      const shared = new RedisContentCache({ urls: [`redis://127.0.0.1:${port}`] });
      cleanup.push(() => shared.close());
      const first = await machine(shared);
      await first.read(0);
      await first.set.contentIdle();
      server.kill('SIGKILL');
      await first.readAll();
      expect(first.metrics.snapshot()).toMatchObject({ failedSpans: 0, contentAvailable: 0 });
      await startRedis(port);
      // The client reconnects by itself; then one machine fills it and the next one needs no registry. On a loaded machine
      // a lookup may miss its 50 ms, so this may take more than one.
      let requests = -1;
      for (let i = 0; i < 20 && requests !== 0; i++) {
        await new Promise((resolve) => setTimeout(resolve, 300));
        const next = await machine(shared);
        await next.readAll();
        await next.set.contentIdle();
        requests = next.source.requests.length;
      }
      expect(requests).toBe(0);
    },
  );

  test('a Redis that accepts connections and never answers does not delay reads beyond the budget', async () => {
    const server = createServer(() => {});
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    cleanup.push(() => server.close());
    const { port } = server.address() as { port: number };
    const shared = new RedisContentCache({ urls: [`redis://127.0.0.1:${port}`] });
    const { read, metrics } = await machine(shared);
    for (let i = 0; i < 10; i++) await read(i * SPAN);
    // Three budgets of 50 ms are all it may cost; the rest did not ask.
    expect(metrics.snapshot()).toMatchObject({ contentTimeouts: 3, contentSkipped: 7, contentAvailable: 0 });
  });
});

describe('--content-cache', () => {
  test('each URL opens its engine; others are usage errors that show no password', () => {
    mkdirSync(join(dir, 'x'));
    expect(openContentCache(`dir:${dir}/x`)).toBeInstanceOf(DirectoryContentCache);
    expect(openContentCache('redis://h:1/2?ttl=60')).toBeInstanceOf(RedisContentCache);
    expect(openContentCache('redis://a:1,redis://b:1')).toBeInstanceOf(RedisContentCache);
    expect(openContentCache('s3://bucket/some/prefix?endpoint=http://127.0.0.1:1')).toBeInstanceOf(S3ContentCache);
    expect(openContentCache('memory:1000')).toBeInstanceOf(MemoryContentCache);
    for (const bad of ['', 'ftp://x', 'dir:relative', 'memory:lots', 'redis://u:geheim@h:1?ttl=soon']) {
      expect(() => openContentCache(bad)).toThrow(expect.objectContaining({ code: 'USAGE' }));
      expect(() => openContentCache(bad)).not.toThrow(/geheim/);
    }
  });
});
