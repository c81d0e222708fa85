import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  type RedisClusterProcesses,
  redisCli,
  S3_CREDENTIALS,
  startRedis,
  startRedisCluster,
  startS3,
} from '../../../test/support/content-servers.js';
import { mountFuse, openFuseDevice, unmount } from '../../linux/index.js';
import { DirectoryContentCache } from './directory.js';
import { MemoryContentCache } from './memory.js';
import { openContentCache } from './open.js';
import { RedisContentCache } from './redis.js';
import { slotOf } from './redis-cluster.js';
import { S3ContentCache } from './s3.js';
import { serveContentCache } from './socket.js';
import type { ContentCache } from './types.js';

const hash = 'ab'.repeat(32);
const options = { routingKey: 'sha256:layer' };
let dir: string;
const cleanup: (() => unknown)[] = [];

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

function open(url: string, environment?: Parameters<typeof openContentCache>[1]): ContentCache {
  const cache = openContentCache(url, environment);
  cleanup.push(() => cache.close?.());
  return cache;
}

async function redis(...args: readonly string[]): Promise<number> {
  const server = await startRedis(undefined, ...args);
  cleanup.push(() => server.stop());
  return server.port;
}

/** Waits until it answers: on a busy machine the first attempt to connect may take longer than a reader would wait for it. */
async function answers(cache: ContentCache): Promise<void> {
  const ask = (): Promise<boolean> =>
    cache.getContent(hash, 0, 1, options).then(
      () => true,
      () => false,
    );
  await expect.poll(ask, { timeout: 20_000 }).toBe(true);
}

let oneCluster: Promise<RedisClusterProcesses> | null = null;
/** One for all tests of this file: it takes two seconds to come together. */
function cluster(): Promise<RedisClusterProcesses> {
  oneCluster ??= startRedisCluster();
  return oneCluster;
}
afterAll(async () => (await oneCluster)?.stop());

async function s3(): Promise<string> {
  const server = await startS3();
  cleanup.push(() => server.stop());
  return `http://127.0.0.1:${server.port}`;
}

const engines: Record<string, () => Promise<ContentCache>> = {
  memory: async () => new MemoryContentCache(1 << 30),
  directory: async () => new DirectoryContentCache(dir),
  'a socket to another process': async () => {
    cleanup.push(await serveContentCache(new DirectoryContentCache(dir), join(dir, 'socket')));
    return open(`unix:${join(dir, 'socket')}`);
  },
  Redis: async () => open(`redis://127.0.0.1:${await redis()}`),
  'a Redis cluster': async () => open((await cluster()).url),
  S3: async () => open(`s3://clip/a/b?endpoint=${await s3()}`, { credentials: S3_CREDENTIALS }),
};

describe.each(Object.entries(engines))('%s', (name, make) => {
  test('keeps the contract of a ContentCache', async () => {
    const cache = await make();
    await cache.connect?.().catch(() => {});
    await answers(cache);
    const content = randomBytes(20_000_000); // three chunks of Redis, three parts of S3
    const { length } = content;
    expect(await cache.getContent(hash, 0, 10, options)).toBeNull();
    expect(await cache.has?.(hash, { ...options, length })).toBe(false);
    expect(await cache.storeContent(pieces(content), hash, options)).toBe(hash);
    expect(await cache.has?.(hash, { ...options, length })).toBe(true);
    for (const [offset, bytes] of [
      [0, content.length],
      [5, 100],
      [8 * 1024 * 1024 - 3, 7],
      [content.length - 4, 4],
    ] as const) {
      const got = await cache.getContent(hash, offset, bytes, options);
      expect(got?.length).toBe(bytes);
      expect(Buffer.compare(got!, content.subarray(offset, offset + bytes))).toBe(0);
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

describe('a directory', () => {
  test('has no content whose file is of another length, as a machine that lost its power leaves it: it is replaced', async () => {
    const cache = new DirectoryContentCache(dir);
    await cache.storeContent(pieces(Buffer.alloc(10)), hash, options);
    truncateSync(join(dir, hash.slice(0, 2), hash), 0);
    expect(await cache.getContent(hash, 0, 10, options)).toBeNull();
    expect(await cache.has(hash, { ...options, length: 10 })).toBe(false);
    await cache.storeContent(pieces(Buffer.alloc(10)), hash, options);
    expect(await cache.has(hash, { ...options, length: 10 })).toBe(true);
  });

  test('whose server is gone holds two of Node’s four file threads, not all: the rest of the process goes on', async () => {
    // Nobody answers this FUSE connection, so each call waits as for a dead NFS server.
    const share = join(dir, 'share');
    mkdirSync(share);
    const fuse = openFuseDevice();
    mountFuse({ fd: fuse, target: share, source: 'dead' });
    const cache = new DirectoryContentCache(share);
    const names = Array.from({ length: 8 }, (_, i) => i.toString(16).padStart(64, 'e'));
    const abort = new AbortController();
    const calls = Promise.allSettled(
      names.map((name) => cache.getContent(name, 0, 10, { ...options, signal: abort.signal })),
    );
    await new Promise((resolve) => setTimeout(resolve, 50));
    const late = new Promise((resolve) => setTimeout(() => resolve('late'), 5000).unref());
    expect(await Promise.race([readFile('/proc/self/status'), late])).not.toBe('late');
    abort.abort();
    closeSync(fuse); // the connection ends, and with it what waits for it
    unmount(share, 'lazy');
    // Two had begun; the others were given up before their turn.
    const reasons = (await calls).map(
      (call) => (call.status === 'rejected' ? call.reason : null) as Error & { code: unknown },
    );
    expect(reasons.map((reason) => reason.code === 'ENOTCONN')).toEqual(names.map((_, i) => i < 2));
    expect(reasons.slice(2).map((reason) => reason.name)).toEqual(names.slice(2).map(() => 'AbortError'));
  });

  // Attack: another user of the share replaces a subdirectory by a link into a directory that only root can write to.
  test('writes and reads nothing through symbolic links that others put into it', async () => {
    const [share, elsewhere] = [join(dir, 'share'), join(dir, 'elsewhere')];
    for (const made of [share, elsewhere]) mkdirSync(made);
    const cache = new DirectoryContentCache(share);
    const content = Buffer.from('content of the attacker');
    symlinkSync(elsewhere, join(share, hash.slice(0, 2)));
    writeFileSync(join(elsewhere, hash), 'a secret');
    await expect(cache.storeContent(pieces(content), hash, options)).rejects.toThrow(/is not a directory/);
    await expect(cache.getContent(hash, 0, 8, options)).rejects.toThrow(/is not a directory/);
    expect(readdirSync(elsewhere)).toEqual([hash]);
    expect(readFileSync(join(elsewhere, hash), 'utf8')).toBe('a secret');

    // The same with the file itself: it is not read, and storing replaces the link, not what it leads to.
    unlinkSync(join(share, hash.slice(0, 2)));
    mkdirSync(join(share, hash.slice(0, 2)));
    symlinkSync(join(elsewhere, hash), join(share, hash.slice(0, 2), hash));
    await expect(cache.getContent(hash, 0, 8, options)).rejects.toThrow(/ELOOP/);
    expect(await cache.has(hash, { ...options, length: 8 })).toBe(false);
    await cache.storeContent(pieces(content), hash, options);
    expect(readFileSync(join(elsewhere, hash), 'utf8')).toBe('a secret');
    expect(lstatSync(join(share, hash.slice(0, 2), hash)).isFile()).toBe(true);
    expect(Buffer.from((await cache.getContent(hash, 0, content.length, options))!)).toEqual(content);
  });

  test('a FIFO in place of a file is refused at once', async () => {
    const cache = new DirectoryContentCache(dir);
    mkdirSync(join(dir, hash.slice(0, 2)));
    expect(spawnSync('mkfifo', [join(dir, hash.slice(0, 2), hash)]).status).toBe(0);
    await expect(cache.getContent(hash, 0, 10, options)).rejects.toThrow(/is not a file/);
  });
});

describe('Redis', () => {
  test('values are at most 8 MiB and expire after the ttl; one that lost a chunk is stored again', async () => {
    const port = await redis('--requirepass', 'geh@im', '--databases', '3');
    const cache = open(`redis://:geh%40im@127.0.0.1:${port}/2?ttl=1000`);
    const content = randomBytes(17_000_000);
    await answers(cache);
    await cache.storeContent(pieces(content), hash, options);
    const cli = (...args: string[]): Promise<string> =>
      redisCli(port, '--no-auth-warning', '-a', 'geh@im', '-n', '2', ...args);
    const keys = (await cli('keys', '*')).split('\n').sort();
    expect(keys).toEqual([0, 1, 2].map((i) => `clip:{${hash}}:${i}`));
    for (const key of keys) {
      expect(Number(await cli('strlen', key))).toBeLessThanOrEqual(8 * 1024 * 1024);
      expect(Number(await cli('ttl', key))).toBeGreaterThan(900);
    }
    await cli('del', keys[1]!);
    expect(await cache.getContent(hash, 0, content.length, options)).toBeNull();
    expect(await cache.has?.(hash, { ...options, length: content.length })).toBe(false);
    // Of a wrong password the user hears by the counters: it is an unavailable cache, not a miss.
    await expect(open(`redis://:no@127.0.0.1:${port}`).getContent(hash, 0, 1, options)).rejects.toThrow();
  });
});

describe('a Redis cluster', () => {
  test('keys hash as the server says', async () => {
    const port = await redis('--cluster-enabled', 'yes', '--cluster-port', '0');
    for (const key of ['clip:{abcd}:0', 'clip:{abcd}:1', 'plain', '{}x', 'a{b', '{a}{b}', 'umläut']) {
      expect(slotOf(key)).toBe(Number(await redisCli(port, 'cluster', 'keyslot', key)));
    }
  });

  test('slots that move, and a node that is killed: the others are served all along', async () => {
    const { nodes, url } = await cluster();
    const cache = open(url);
    const hashes = Array.from({ length: 30 }, (_, i) => i.toString(16).padStart(64, 'c'));
    const get = (name: string): Promise<Uint8Array | null> => cache.getContent(name, 0, 64, options);
    for (const name of hashes) await cache.storeContent(pieces(Buffer.from(name)), name, options);
    const found = await Promise.all(hashes.map(get));
    expect(found.map((bytes) => Buffer.from(bytes!).toString())).toEqual(hashes);

    // One slot goes to another node: first ASK while it is on its way, then MOVED.
    const [moving] = hashes as [string];
    const slot = slotOf(`clip:{${moving}}:0`);
    const from = nodes.findIndex((_, i) => slot < Math.ceil((16384 * (i + 1)) / 3));
    const to = (from + 1) % 3;
    const [source, target] = [nodes[from]!.port, nodes[to]!.port];
    const [sourceId, targetId] = [await redisCli(source, 'cluster', 'myid'), await redisCli(target, 'cluster', 'myid')];
    await redisCli(target, 'cluster', 'setslot', String(slot), 'importing', sourceId);
    await redisCli(source, 'cluster', 'setslot', String(slot), 'migrating', targetId);
    await redisCli(source, 'migrate', '127.0.0.1', String(target), `clip:{${moving}}:0`, '0', '5000');
    expect(Buffer.from((await get(moving))!).toString()).toBe(moving);
    for (const port of [target, source]) await redisCli(port, 'cluster', 'setslot', String(slot), 'node', targetId);
    expect(Buffer.from((await get(moving))!).toString()).toBe(moving);

    // The other two nodes serve theirs, and what the dead one has is refused at once instead of waited for.
    const dead = nodes.findIndex((_, i) => i !== from && i !== to);
    const [low, high] = [Math.ceil((16384 * dead) / 3), Math.ceil((16384 * (dead + 1)) / 3)];
    const lost = (name: string): boolean => slotOf(`clip:{${name}}:0`) >= low && slotOf(`clip:{${name}}:0`) < high;
    const underWay = Promise.allSettled(hashes.map(get));
    await nodes[dead]!.kill();
    await underWay;
    const after = await Promise.allSettled(hashes.map(get));
    expect(after.map((result) => result.status)).toEqual(hashes.map((name) => (lost(name) ? 'rejected' : 'fulfilled')));
    expect(hashes.filter(lost).length).toBeGreaterThan(2);

    // A cache opened now, told of the dead node too, finds the others.
    const late = open(url);
    const alive = hashes.find((name) => !lost(name))!;
    expect(Buffer.from((await late.getContent(alive, 0, 64, options))!).toString()).toBe(alive);
  });
});

describe('--content-cache', () => {
  test('each URL opens its engine; others are usage errors that show no password', () => {
    mkdirSync(join(dir, 'x'));
    expect(openContentCache(`dir:${dir}/x`)).toBeInstanceOf(DirectoryContentCache);
    for (const url of [
      'redis://h',
      'redis://h:1/2?ttl=60',
      'redis://a:1,redis://b:1',
      'redis://user:pa%2Fss@a:1,b:2,[::1]:3/?ttl=5',
      'rediss://:secret@h/',
      'redis+cluster://h:7000',
      'rediss+cluster://h?ttl=9',
      'redis://h?cluster',
    ]) {
      expect(openContentCache(url)).toBeInstanceOf(RedisContentCache);
    }
    expect(openContentCache('s3://bucket/some/prefix?endpoint=http://127.0.0.1:1')).toBeInstanceOf(S3ContentCache);
    expect(openContentCache('memory:1000')).toBeInstanceOf(MemoryContentCache);
    for (const bad of [
      '',
      'ftp://x',
      'dir:relative',
      'memory:lots',
      's3://',
      's3:bucket',
      'redis://',
      'redis://u:geheim@h:1?ttl=soon',
      'redis://u:geheim@h:1?tll=5',
      'redis://u:geheim@h:99999',
      'redis://u:geheim@h/db',
      'redis://u:geheim@a,b/1',
      'redis://u:geheim@a,,b',
      'redis://u:geheim%@a',
    ]) {
      expect(() => openContentCache(bad), bad).toThrow(expect.objectContaining({ code: 'USAGE' }));
      expect(() => openContentCache(bad)).not.toThrow(/geheim/);
    }
  });
});

test('over a socket, what its cache says is told apart: a miss, a failure, nobody there', async () => {
  const path = join(dir, 'socket');
  const failing: ContentCache = {
    getContent: async (_hash, offset) => (offset > 0 ? Promise.reject(new Error('out of order')) : null),
    storeContent: async (chunks) => {
      for await (const _ of chunks) throw new Error('no room');
      return '';
    },
  };
  const end = await serveContentCache(failing, path);
  const cache = open(`unix:${path}`);
  expect(await cache.getContent(hash, 0, 10, options)).toBeNull();
  await expect(cache.getContent(hash, 1, 10, options)).rejects.toThrow('503 out of order');
  await expect(cache.storeContent(pieces(randomBytes(1e6)), hash, options)).rejects.toThrow(/no room|EPIPE|ECONNRESET/);
  expect(await cache.has?.(hash, { ...options, length: 10 })).toBe(false);
  end();
  await expect(cache.getContent(hash, 0, 10, options)).rejects.toThrow(/ENOENT|ECONNREFUSED|ECONNRESET/);
});
