import { beforeAll, describe, expect, test, vi } from 'vitest';
import { type LazyTestLayer, lazyStage } from '../../test/support/lazy-layers.js';
import {
  compressibleBytes,
  type FakeSource,
  type TestLayer,
  zstdFrames,
  zstdLayer,
} from '../../test/support/span-layers.js';
import { type ContentCache, MemoryContentCache } from '../cache/index.js';
import type { LayerClaim } from './layer-claim.js';

const SPAN = 256 * 1024;
const raw = compressibleBytes(20 * SPAN + 777);
let frames: TestLayer;
let stream: TestLayer;
const stage = lazyStage();

beforeAll(() => {
  const parts: Uint8Array[] = [];
  for (let at = 0; at < raw.length; at += 100_000) parts.push(raw.subarray(at, at + 100_000));
  frames = zstdLayer(raw, SPAN, zstdFrames(parts));
  stream = zstdLayer(raw, SPAN, zstdFrames([raw]));
});

const open = (
  layer: TestLayer,
  maxBytes = 1 << 30,
  contentCache?: ContentCache,
): Promise<LazyTestLayer & { source: FakeSource }> =>
  stage.open(layer, { memoryBytes: 2 * SPAN, contentCache, cacheOptions: { maxBytes } });

async function check(opened: LayerClaim, offset: number, length: number): Promise<void> {
  const got = await opened.read(offset, length);
  expect(Buffer.compare(got, raw.subarray(offset, offset + length))).toBe(0);
}

describe('a layer of many frames', () => {
  test('a read fetches the span it needs and no other', async () => {
    expect(frames.table.kind).toBe('zstd');
    const { opened, source } = await open(frames);
    await check(opened, 9 * SPAN, 1000);
    expect(source.requests).toHaveLength(1);
    expect(source.requests[0]!.start).toBeGreaterThan(0);
    await Promise.all([3, 17, 0, 12].map((i) => check(opened, i * SPAN, SPAN)));
  });
});

describe('a layer of one frame', () => {
  test('a read waits for the stream to pass it and no longer; what it passed is kept', async () => {
    expect(stream.table.kind).toBe('zstd-stream');
    const { opened, source, metrics } = await open(stream);
    const { layerOffset, bitOffset } = stream.table;
    await check(opened, layerOffset[5]!, 1000);
    expect(source.requests).toMatchObject([{ start: 0, end: bitOffset[6]! / 8 }]);
    await check(opened, layerOffset[2]!, SPAN);
    expect(source.requests).toHaveLength(1);
    await check(opened, layerOffset[9]!, 1000);
    expect(source.requests).toMatchObject([{}, { start: bitOffset[6]! / 8, end: bitOffset[10]! / 8 }]);
    expect(metrics.snapshot()).toMatchObject({ spansFetched: 10, failedSpans: 0 });
  });

  test('readers in any order at once are served by one pass', async () => {
    const { opened, metrics } = await open(stream);
    await Promise.all([12, 3, 16, 0, 7].map((i) => check(opened, stream.table.layerOffset[i]!, 5000)));
    expect(metrics.snapshot().spansFetched).toBe(17);
  });

  test('a span behind the decoder that was evicted starts the stream again', async () => {
    const { opened, cache, metrics } = await open(stream);
    await check(opened, raw.length - 10, 10);
    cache.prune(0);
    await check(opened, 100, 10);
    expect(metrics.snapshot()).toMatchObject({ failedSpans: 0, spansFetched: stream.table.count + 1 });
  });

  test('without room on disk every byte is still served', async () => {
    const { opened } = await open(stream, 0);
    for (const i of [4, 1, 15, 15, 2]) await check(opened, stream.table.layerOffset[i]!, 3000);
  });

  test('wrong bytes on the way are asked for again, and a lying source is an error', async () => {
    const { opened, source, metrics } = await open(stream);
    const victim = stream.table.bitOffset[3]! / 8 + 10;
    source.tamper = (bytes, start, request) => {
      if (request === 0) bytes[victim - start]! ^= 1;
      return bytes;
    };
    await check(opened, stream.table.layerOffset[6]!, 1000);
    expect(metrics.snapshot()).toMatchObject({ digestMismatches: 1, failedSpans: 0 });
    source.tamper = (bytes) => {
      bytes[5]! ^= 1;
      return bytes;
    };
    await expect(opened.read(stream.table.layerOffset[12]!, 10)).rejects.toMatchObject({
      code: 'DIGEST_MISMATCH',
    });
    source.tamper = (bytes) => bytes;
    await check(opened, stream.table.layerOffset[12]!, 10);
  });

  test('a reader who gives up ends the stream’s request', async () => {
    const { opened, source } = await open(stream);
    source.gate = () => new Promise(() => {});
    const abort = new AbortController();
    const read = opened.read(stream.table.layerOffset[12]!, 10, { signal: abort.signal });
    setTimeout(() => abort.abort(), 20);
    await expect(read).rejects.toMatchObject({ code: 'ABORTED' });
    await vi.waitFor(() => expect(source.requests).toMatchObject([{ aborted: true }]));
    source.gate = () => undefined;
    await check(opened, stream.table.layerOffset[1]!, 10);
  });

  test('what one machine fetched, the next one has from the content cache; a poisoned span is detected and replaced', async () => {
    const shared = new MemoryContentCache(1 << 30);
    const { count, layerOffset, sha256 } = stream.table;
    const first = await open(stream, undefined, shared);
    await check(first.opened, layerOffset[7]!, 10);
    await first.set.contentIdle();
    expect(first.metrics.snapshot()).toMatchObject({ contentStored: 8, contentHits: 0 });
    // The second one needs a little more: the registry is asked for that, and for nothing else.
    const second = await open(stream, undefined, shared);
    await check(second.opened, layerOffset[9]!, 10);
    const { bitOffset } = stream.table;
    expect(second.source.requests).toMatchObject([{ start: bitOffset[8]! / 8, end: bitOffset[10]! / 8 }]);
    await check(second.opened, raw.length - 10, 10);
    await second.set.contentIdle();

    const third = await open(stream, undefined, shared);
    await check(third.opened, 0, raw.length);
    expect(third.source.requests).toHaveLength(0);
    expect(third.metrics.snapshot()).toMatchObject({ contentHits: count, demandBytes: 0 });

    const victim = Buffer.from(sha256.subarray(32 * 3, 32 * 4)).toString('hex');
    const length = bitOffset[4]! / 8 - bitOffset[3]! / 8;
    const wrong = async function* (): AsyncIterable<Uint8Array> {
      yield new Uint8Array(length);
    };
    await shared.storeContent(wrong(), victim, { routingKey: '' });
    const fourth = await open(stream, undefined, shared);
    await check(fourth.opened, layerOffset[6]!, 10);
    expect(fourth.source.requests).toMatchObject([{ start: bitOffset[3]! / 8, end: bitOffset[4]! / 8 }]);
    expect(fourth.metrics.snapshot()).toMatchObject({ contentPoisoned: 1, digestMismatches: 0, failedSpans: 0 });
    await fourth.set.contentIdle();
    const fifth = await open(stream, undefined, shared);
    await check(fifth.opened, 0, raw.length);
    expect(fifth.source.requests).toHaveLength(0);
  });
});
