import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { lazyStage } from '../../test/support/lazy-layers.js';
import { type Fault, type RegistryProxy, startProxy } from '../../test/support/proxy.js';
import { startRegistry, type TestRegistry } from '../../test/support/registry.js';
import { compressibleBytes, gzipLayer } from '../../test/support/span-layers.js';
import type { Metrics } from '../metrics/index.js';
import { type ImageSource, sourceForArchive, wrongAnswers } from '../oci/index.js';
import type { LayerClaim } from './layer-claim.js';

// The same promises as with the fake source, kept towards Debian's docker-registry behind a proxy that counts and lies.

const SPAN = 64 * 1024;
const raw = compressibleBytes(24 * SPAN);
const layer = gzipLayer(raw, SPAN);
const { layerOffset, bitOffset } = layer.table;
let registry: TestRegistry;
let proxy: RegistryProxy;
const stage = lazyStage();

beforeAll(async () => {
  registry = await startRegistry();
  const begun = await fetch(`${registry.url}/v2/test/blobs/uploads/`, { method: 'POST' });
  const location = new URL(begun.headers.get('location')!, registry.url);
  location.searchParams.set('digest', layer.meta.digest);
  const put = await fetch(location, {
    method: 'PUT',
    body: Buffer.from(layer.blob),
    headers: { 'content-type': 'application/octet-stream' },
  });
  expect(put.status).toBe(201);
  proxy = await startProxy({ upstream: registry.url });
});
afterAll(async () => {
  await proxy?.stop();
  await registry?.stop();
});
beforeEach(() => {
  proxy.reset();
  proxy.fault = null;
});

async function open(): Promise<{ opened: LayerClaim; metrics: Metrics; source: ImageSource }> {
  const origin = {
    reference: `${proxy.host}/test:latest`,
    registry: proxy.host,
    repository: 'test',
    manifestDigest: `sha256:${'0'.repeat(64)}`,
  };
  const source = sourceForArchive(origin, { plainHttp: true });
  stage.cleanup.push(() => source.close());
  const { opened, metrics } = await stage.openFrom(source, layer);
  return { opened, metrics, source };
}

async function check(opened: LayerClaim, offset: number, length: number): Promise<void> {
  const got = await opened.read(offset, length);
  expect(Buffer.compare(got, raw.subarray(offset, offset + length))).toBe(0);
}

const range = (first: number, end: number): string =>
  `bytes=${Math.floor(bitOffset[first]! / 8)}-${Math.ceil(bitOffset[end]! / 8) - 1}`;
const blobRanges = (): (string | null)[] =>
  proxy.requests.filter((r) => r.path.includes('/blobs/')).map((r) => r.range);

test('a cold 4 KiB read is one request for exactly one span', async () => {
  const { opened } = await open();
  await check(opened, layerOffset[5]! + 4096, 4096);
  expect(blobRanges()).toEqual([range(5, 6)]);
  const exact = Math.ceil(bitOffset[6]! / 8) - Math.floor(bitOffset[5]! / 8);
  expect(proxy.blobTraffic()).toEqual({ requests: 1, bytes: exact });
});

test('neighbours are one request, 32 readers of one span too', async () => {
  const { opened } = await open();
  await check(opened, layerOffset[3]!, 4 * SPAN);
  expect(blobRanges()).toEqual([range(3, 7)]);
  await Promise.all(Array.from({ length: 32 }, (_, i) => check(opened, layerOffset[15]! + i, 100)));
  expect(blobRanges()).toEqual([range(3, 7), range(15, 16)]);
});

test('a flipped bit on the way is never served: asked for again, an error if it stays, and it recovers', async () => {
  const { opened, metrics } = await open();
  let lies = 1;
  proxy.fault = (request) => (request.path.includes('/blobs/') && lies-- > 0 ? { corruptAt: 40 } : null);
  await check(opened, layerOffset[2]!, 1000);
  expect(metrics.snapshot()).toMatchObject({ digestMismatches: 1, failedSpans: 0 });
  lies = 1000;
  await expect(opened.read(layerOffset[9]!, 10)).rejects.toMatchObject({ code: 'DIGEST_MISMATCH' });
  lies = 0;
  await check(opened, layerOffset[9]!, 1000);
});

test('a connection that breaks in the middle of a span is taken up where it broke', async () => {
  const { opened, metrics } = await open();
  let breaks = 1;
  proxy.fault = (request) => (request.path.includes('/blobs/') && breaks-- > 0 ? { resetAfter: 5000 } : null);
  await check(opened, layerOffset[10]!, 6 * SPAN);
  expect(metrics.snapshot()).toMatchObject({ failedSpans: 0, digestMismatches: 0 });
});

test('a registry that ignores Range does not make us serve its beginning', async () => {
  const { opened } = await open();
  proxy.fault = (request) => (request.path.includes('/blobs/') ? { ignoreRange: true } : null);
  await opened.read(layerOffset[10]!, 1000).then(
    (got) => expect(Buffer.compare(got, raw.subarray(layerOffset[10]!, layerOffset[10]! + 1000))).toBe(0),
    (error) => expect(error).toMatchObject({ name: 'ClipError' }),
  );
  proxy.fault = null;
  await check(opened, layerOffset[10]!, 1000);
});

test('closing while workers still write keeps the file open until they are done', async () => {
  const { opened } = await open();
  const { fd, generations } = opened.layer.shared;
  const reading = opened.ahead(0, 2);
  for (let span = 1; span < layer.table.count; span++) void opened.ahead(span, 2)?.catch(() => {});
  await reading;
  opened.close();
  const { fstatSync } = await import('node:fs');
  for (let i = 0; i < 200; i++) {
    try {
      fstatSync(fd);
    } catch (error) {
      expect((error as NodeJS.ErrnoException).code).toBe('EBADF');
      const before = Array.from(generations);
      await new Promise((resolve) => setTimeout(resolve, 50));
      expect(Array.from(generations)).toEqual(before); // nobody wrote after it was closed
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error('the cache file was never closed');
});

test('wrong answers are counted by the host that gave them', async () => {
  const { opened } = await open();
  const seen = (): Record<string, number> => {
    const start = `wrongAnswer.${proxy.host}.`;
    return Object.fromEntries(
      Object.entries(wrongAnswers())
        .filter(([name]) => name.startsWith(start))
        .map(([name, count]) => [name.slice(start.length), count]),
    );
  };
  const before = seen();
  const since = (): Record<string, number> =>
    Object.fromEntries(
      Object.entries(seen())
        .map(([name, count]) => [name, count - (before[name] ?? 0)] as const)
        .filter(([, count]) => count > 0),
    );
  const answers: Fault[] = [
    { range: 'bytes=1-2' },
    { headers: { 'content-range': 'bytes 0-9/11' } },
    { ignoreRange: true },
    { corruptAt: 40 },
  ];
  const kinds: Record<string, number>[] = [];
  for (const [i, answer] of answers.entries()) {
    let lies = 1;
    proxy.fault = ({ path }) => (path.includes('/blobs/') && lies-- > 0 ? answer : null);
    const start = layerOffset[4 * i]!;
    const bytes = await opened.read(start, 100);
    expect(Buffer.compare(bytes, raw.subarray(start, start + 100))).toBe(0);
    kinds.push(since());
  }
  expect(kinds).toEqual([
    { range: 1 },
    { range: 1, length: 1 },
    { range: 1, length: 1, ignoredRange: 1 },
    { range: 1, length: 1, ignoredRange: 1, bytes: 1 },
  ]);
});
