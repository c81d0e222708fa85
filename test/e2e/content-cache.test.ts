import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { makeCertificates } from '../support/certificates.js';
import { Clipctl } from '../support/clipctl.js';
import { cutter, type ServerProcess, startRedis } from '../support/content-servers.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';
import { freePort } from '../support/processes.js';
import { type RegistryProxy, startProxy } from '../support/proxy.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

// Two machines with one Redis: real registry, real mounts. Nothing here may read a mount synchronously: the proxy that it waits
// for is in this process.

const files = new Map([1, 2, 3].map((i) => [`file-${i}`, layerLike(2_000_000, i)]));
let registry: TestRegistry;
let proxy: RegistryProxy;
let redis: ServerProcess;
let indexer: Clipctl;
let archive: string;
const machines: Clipctl[] = [];

beforeAll(async () => {
  [registry, redis, indexer] = await Promise.all([startRegistry(), startRedis(), Clipctl.create()]);
  proxy = await startProxy({ upstream: registry.url });
  const image = writeImage([tar(...[...files].map(([name, content]) => file(name, content)))]);
  await registry.push(image.reference, 'app:one');
  image.remove();
  archive = indexer.path('app.clip');
  await indexer.ok('index', '--image', `${proxy.host}/app:one`, '--out', archive, '--checkpoint', '1');
}, 60_000);
afterEach(async () => {
  for (const machine of machines.splice(0)) await machine.close();
});
afterAll(async () => {
  await indexer?.close();
  await proxy?.stop();
  await Promise.all([registry?.stop(), redis?.stop()]);
});

interface Machine {
  readonly clip: Clipctl;
  readonly place: string;
  counters(): Promise<Readonly<Record<string, number>>>;
}

async function machine(env: NodeJS.ProcessEnv, ...options: string[]): Promise<Machine> {
  const clip = await Clipctl.create({ env });
  machines.push(clip);
  const place = await clip.place('mnt');
  await clip.ok('mount', '--clip', archive, '--at', place, ...options);
  return { clip, place, counters: async () => (await clip.stats()).counters };
}

async function readAll(place: string): Promise<void> {
  for (const [name, content] of files) {
    const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
    expect(digest(await readFile(join(place, name)))).toBe(digest(content));
  }
}

test('a second machine with a cold disk and a warm Redis asks the registry for nothing', async () => {
  const url = `redis://127.0.0.1:${redis.port}`;
  const first = await machine({}, '--content-cache', url);
  await readAll(first.place);
  await eventually(async () => {
    const { contentStored = 0, spansFetched = -1, contentQueueBytes } = await first.counters();
    return contentStored === spansFetched && contentQueueBytes === 0;
  });
  proxy.reset();
  // By the environment, as a service would have it: no password shows in a list of processes.
  const second = await machine({ CLIP_CONTENT_CACHE: `redis://127.0.0.1:${redis.port}/?ttl=1000` });
  await readAll(second.place);
  expect(proxy.blobTraffic().requests).toBe(0);
  expect(await second.counters()).toMatchObject({
    contentPoisoned: 0,
    contentErrors: 0,
    contentStored: 0,
    requests: 0,
  });
}, 60_000);

test('a Redis behind TLS with a certificate of one’s own: NODE_EXTRA_CA_CERTS names the trusted authority', async () => {
  const { caCert, serverCert, serverKey } = await makeCertificates(indexer.path('certificates'));
  const port = await freePort();
  const tls = ['--tls-port', String(port), '--tls-auth-clients', 'no', '--tls-ca-cert-file', caCert];
  const own = ['--tls-cert-file', serverCert, '--tls-key-file', serverKey];
  const secure = await startRedis(port, '--port', '0', ...tls, ...own);
  try {
    const url = `rediss://127.0.0.1:${port}`;
    const trusting = { NODE_EXTRA_CA_CERTS: caCert };
    const first = await machine(trusting, '--content-cache', url);
    await readAll(first.place);
    await eventually(async () => {
      const { contentStored = 0, spansFetched = -1 } = await first.counters();
      return contentStored === spansFetched;
    });
    proxy.reset();
    const second = await machine(trusting, '--content-cache', url);
    await readAll(second.place);
    expect(proxy.blobTraffic().requests).toBe(0);
    // A clipd that does not trust it works without it, and the log says why.
    const third = await machine({}, '--content-cache', url);
    await readAll(third.place);
    expect(await third.counters()).toMatchObject({ contentAvailable: 0, contentHits: 0, contentStored: 0 });
    expect(await readFile(third.clip.path('root', 'clipd.log'), 'utf8')).toMatch(
      /content cache.*certificate|certificate.*content cache/,
    );
  } finally {
    await secure.stop();
  }
}, 60_000);

test('a Redis that breaks off answers and then dies in the middle of a start: the rest comes from the registry', async () => {
  const dying = await startRedis();
  const cut = await cutter(dying.port);
  try {
    const first = await machine({}, '--content-cache', `redis://127.0.0.1:${dying.port}`);
    await readAll(first.place);
    await eventually(async () => {
      const { contentStored = 0, spansFetched = -1, contentQueueBytes } = await first.counters();
      return contentStored === spansFetched && contentQueueBytes === 0;
    });
    // What it has read is fetched ahead by its profile on the next machine.
    await first.clip.ok('umount', first.place);
    await eventually(async () => (await first.counters()).profilesPublished! > 0);
    proxy.reset();
    cut.after = 700_000;
    const second = await machine({}, '--content-cache', `redis://127.0.0.1:${cut.port}`);
    const reading = readAll(second.place);
    await eventually(() => cut.cuts > 0);
    await dying.kill();
    await cut.close();
    await reading;
    const { missErrors = 0, contentPoisoned = 0 } = await second.counters();
    expect({ missErrors, contentPoisoned }).toEqual({ missErrors: 0, contentPoisoned: 0 });
    expect(proxy.blobTraffic().requests).toBeGreaterThan(0);
  } finally {
    await cut.close().catch(() => {});
    await dying.stop();
  }
}, 60_000);

test('a Redis that is not there costs neither the mount nor a read', async () => {
  const { place, counters } = await machine({}, '--content-cache', 'redis://127.0.0.1:1');
  await readAll(place);
  const { contentErrors = 0, contentAvailable, missErrors } = await counters();
  expect(contentErrors).toBeGreaterThan(0);
  expect({ contentAvailable, missErrors: missErrors ?? 0 }).toEqual({ contentAvailable: 0, missErrors: 0 });
}, 60_000);
