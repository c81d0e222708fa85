import { closeSync, openSync, readdirSync, statSync, truncateSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { type LazyTestLayer, lazyStage } from '../../test/support/lazy-layers.js';
import { compressibleBytes, FakeSource, gzipLayer, type TestLayer, tarLayer } from '../../test/support/span-layers.js';
import { ClipError } from '../bytes/index.js';
import { CachedSpans, type SpanCacheOptions } from '../cache/index.js';
import type { LayerClaim } from './layer-claim.js';
import type { LayerSetOptions } from './layer-set.js';

const SPAN = 64 * 1024;
const raw = compressibleBytes(40 * SPAN + 1234);
const layer = gzipLayer(raw, SPAN);
const stage = lazyStage();

interface Opened extends LazyTestLayer {
  source: FakeSource;
  read: LayerClaim['read'];
  lazy: LayerClaim['layer'];
}

async function open(
  what: TestLayer = layer,
  options: Partial<LayerSetOptions> = {},
  cacheOptions: SpanCacheOptions = {},
  directory = join(stage.dir, 'cache'),
): Promise<Opened> {
  const made = await stage.open(what, { ...options, cacheOptions, directory });
  const { layer: lazy } = made.opened;
  return { ...made, lazy, read: (...args) => made.opened.read(...args) };
}

const same = (got: Uint8Array, offset: number): void => {
  expect(Buffer.compare(got, raw.subarray(offset, offset + got.length))).toBe(0);
};

describe('what is fetched', () => {
  test('a small read fetches exactly its span in one request, and a second one nothing', async () => {
    const { read, source, metrics, lazy } = await open();
    const offset = lazy.spans.table.layerOffset[7]! + 5000;
    same(await read(offset, 4096), offset);
    expect(source.requests).toMatchObject([
      { start: Math.floor(lazy.spans.table.bitOffset[7]! / 8), end: Math.ceil(lazy.spans.table.bitOffset[8]! / 8) },
    ]);
    same(await read(offset + 100, 4096), offset + 100);
    expect(source.requests).toHaveLength(1);
    expect(metrics.snapshot()).toMatchObject({
      requests: 1,
      spansFetched: 1,
      spanHits: 1,
      spanMisses: 1,
      demandBytes: lazy.spans.compressedBytes(7, 8),
      readaheadBytes: 0,
    });
    expect(lazy.shared.generations[7]).toBe(1);
    expect(lazy.shared.generations[8]).toBe(0);
  });

  test('a read across a boundary fetches two spans in one request that shares the boundary byte', async () => {
    const { read, source, lazy } = await open();
    const offset = lazy.spans.table.layerOffset[3]! - 100;
    same(await read(offset, 200), offset);
    expect(source.requests).toMatchObject([
      { start: Math.floor(lazy.spans.table.bitOffset[2]! / 8), end: Math.ceil(lazy.spans.table.bitOffset[4]! / 8) },
    ]);
  });

  test('neighbours asked for by different readers in one burst go out together; a gap makes a second request', async () => {
    const { read, source, lazy } = await open();
    const at = (span: number): number => lazy.spans.table.layerOffset[span]! + 10;
    const spans = [12, 10, 11, 20];
    const got = await Promise.all(spans.map((span) => read(at(span), 50)));
    for (const [i, span] of spans.entries()) same(got[i]!, at(span));
    expect(source.requests.map((r) => r.start).sort((a, b) => a - b)).toEqual([
      Math.floor(lazy.spans.table.bitOffset[10]! / 8),
      Math.floor(lazy.spans.table.bitOffset[20]! / 8),
    ]);
  });

  test('64 readers of one span share one fetch', async () => {
    const { read, source } = await open();
    const results = await Promise.all(Array.from({ length: 64 }, (_, i) => read(1000 + i, 3000)));
    for (const [i, bytes] of results.entries()) same(bytes, 1000 + i);
    expect(source.requests).toHaveLength(1);
  });

  test('any reads of any layer kind give the right bytes, with and without a disk cache', async () => {
    const tar = tarLayer(raw, SPAN);
    for (const [what, cacheOptions] of [
      [layer, {}],
      [tar, {}],
      [layer, { maxBytes: 0 }],
      [layer, { maxBytes: 3 * SPAN }],
    ] as const) {
      const { read, close } = await open(what, {}, cacheOptions);
      await fc.assert(
        fc.asyncProperty(fc.nat(raw.length - 1), fc.nat(5 * SPAN), async (offset, wanted) => {
          const length = Math.min(wanted, raw.length - offset);
          const got = await read(offset, length);
          expect(got.length).toBe(length);
          same(got, offset);
        }),
        { numRuns: 40 },
      );
      close();
    }
  });

  test('outside the layer is a RangeError', async () => {
    const { read } = await open();
    await expect(read(raw.length, 1)).rejects.toThrow(RangeError);
    await expect(read(-1, 1)).rejects.toThrow(RangeError);
    expect(await read(raw.length, 0)).toHaveLength(0);
  });

  test('what one archive’s source does not give, another’s is asked for, once', async () => {
    const { set, source, read, metrics, lazy } = await open();
    const refuse = (from: FakeSource): void => {
      from.gate = () => Promise.reject(new ClipError('NETWORK', 'half a blob'));
    };
    refuse(source);
    await expect(read(lazy.spans.table.layerOffset[3]!, 10)).rejects.toMatchObject({ message: 'half a blob' });
    expect(source.requests.length).toBe(1);
    const others = [new FakeSource(layer.blob), new FakeSource(layer.blob)];
    for (const other of others) {
      const second = set.open({ ...layer, readState: (span) => layer.readState(span), source: other });
      stage.cleanup.push(() => second.close());
    }
    const offset = lazy.spans.table.layerOffset[5]!;
    same(await read(offset, 2 * SPAN), offset);
    expect(others.map(({ requests }) => requests.length)).toEqual([1, 0]);
    expect(metrics.snapshot()).toMatchObject({ failovers: 2, failedSpans: 1 });
    for (const other of others) refuse(other);
    await expect(read(lazy.spans.table.layerOffset[20]!, 10)).rejects.toMatchObject({ message: 'half a blob' });
    expect(others.map(({ requests }) => requests.length)).toEqual([2, 0]);
  });

  test('an archive whose checkpoint states are forged neither changes nor takes the layer that it shares', async () => {
    const forged = { ...layer, readState: (span: number) => layer.readState(span === 0 ? 0 : (span % 3) + 4) };
    const { set, read, lazy, metrics } = await open(forged);
    const offset = lazy.spans.table.layerOffset[3]!;
    await expect(read(offset, 10)).rejects.toMatchObject({
      code: 'BAD_FORMAT',
      message: expect.stringMatching(/its SHA-256 differs/),
    });
    expect(metrics.snapshot()).toMatchObject({ badContent: 1, digestMismatches: 0 });
    const source = new FakeSource(layer.blob);
    const honest = set.open({ ...layer, readState: (span) => layer.readState(span), source });
    stage.cleanup.push(() => honest.close());
    expect(honest.layer).toBe(lazy);
    same(await read(0, raw.length), 0);
    expect(metrics.snapshot()).toMatchObject({ badContent: 1, digestMismatches: 0 });
  });

  test('an archive whose file cannot be read any more does not take the layer that it shares', async () => {
    const readState = (): never => {
      throw Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO', syscall: 'read' });
    };
    const { set, source, read, lazy } = await open({ ...layer, readState });
    const offset = lazy.spans.table.layerOffset[3]!;
    await expect(read(offset, 10)).rejects.toMatchObject({ message: expect.stringContaining('EIO: i/o error, read') });
    const other = set.open({ ...layer, readState: (span) => layer.readState(span), source });
    stage.cleanup.push(() => other.close());
    same(await read(0, raw.length), 0);
  });

  test('two archives of one layer and table share spans; another table of the layer keeps its own', async () => {
    const other = gzipLayer(raw, 3 * SPAN);
    expect(other.meta.digest).toBe(layer.meta.digest);
    const { set, source, read } = await open();
    const secondSource = new FakeSource(layer.blob);
    const second = set.open({ ...layer, source: secondSource });
    const third = set.open({ ...other, source: secondSource });
    stage.cleanup.push(
      () => second.close(),
      () => third.close(),
    );
    for (let i = 0; i < 60; i++) {
      const offset = (i * 7919 * 13) % (raw.length - 5000);
      same(await read(offset, 5000), offset);
      same(await second.read(offset, 5000), offset);
      const ahead = Math.min(raw.length - 5000, offset + 999);
      same(await third.read(ahead, 5000), ahead);
    }
    expect(second.layer).not.toBe(third.layer);
    expect(readdirSync(join(stage.dir, 'cache/spans')).filter((n) => !n.endsWith('.table'))).toHaveLength(2);
    // The second archive never had to fetch what the first one had; the third fetched for itself.
    expect(secondSource.requests.length).toBeGreaterThan(0);
    expect(source.requests.length).toBeLessThanOrEqual(layer.table.count);
  });
});

describe('zeros', () => {
  // Spans end within blocks of the file system, and text lies before, between and behind the zeros.
  const size = 33 * SPAN + 321;
  const mostlyZero = new Uint8Array(size);
  mostlyZero.set(compressibleBytes(3000, 7), 100);
  mostlyZero.set(compressibleBytes(SPAN, 8), 20 * SPAN - 999);
  mostlyZero.set(compressibleBytes(500, 9), size - 500);

  test.each([
    ['gzip', gzipLayer(mostlyZero, SPAN)],
    ['tar', tarLayer(mostlyZero, SPAN)],
  ])('spans of a %s layer that are all zeros stay holes, are read, evicted and filled again', async (_, zeros) => {
    const { opened, cache, lazy, source, close } = await open(zeros);
    const all = async (from: LayerClaim): Promise<void> => {
      expect(Buffer.compare(await from.read(0, size), mostlyZero)).toBe(0);
    };
    await all(opened);
    const blocks = (): number => statSync(lazy.cached.path).blocks * 512;
    expect(blocks()).toBeLessThan(6 * SPAN);
    expect(cache.usedBytes).toBeLessThan(6 * SPAN);
    expect(cache.usedBytes).toBeGreaterThanOrEqual(SPAN);
    for (let span = 0; span < lazy.spans.count; span++) expect(lazy.has(span)).toBe(true);
    const requests = source.requests.length;
    await all(opened);
    expect(source.requests.length).toBe(requests);
    cache.prune(0);
    expect(cache.usedBytes).toBe(0);
    await all(opened);
    expect(blocks()).toBeLessThan(6 * SPAN);
    const spans = new CachedSpans(join(stage.dir, 'cache'), [{ digest: zeros.meta.digest, table: zeros.table }]);
    const last = lazy.spans.count - 1;
    expect(Buffer.compare((await spans.read(0, last))!, mostlyZero.subarray(lazy.spans.start(last)))).toBe(0);
    spans.close();
    close();
    const again = await open(zeros);
    await all(again.opened);
  });
});

describe('what is wrong', () => {
  test('wrong bytes are asked for once more and never served', async () => {
    const { read, source, metrics } = await open();
    source.tamper = (bytes, _start, request) => {
      if (request === 0) bytes[bytes.length >> 1]! ^= 1;
      return bytes;
    };
    same(await read(3 * SPAN, 100), 3 * SPAN);
    expect(source.requests).toHaveLength(2);
    expect(metrics.snapshot()).toMatchObject({ digestMismatches: 1, failedSpans: 0 });
  });

  test('a source that goes on lying is an error that names layer and span, and is asked again later', async () => {
    const { read, source, metrics, lazy } = await open();
    let lying = true;
    source.tamper = (bytes) => {
      if (lying) bytes[0]! ^= 0x80;
      return bytes;
    };
    await expect(read(lazy.spans.table.layerOffset[5]!, 100)).rejects.toMatchObject({
      code: 'DIGEST_MISMATCH',
      message: expect.stringContaining(`layer ${layer.meta.digest}, span 5`),
      hint: expect.stringContaining('the registry serves other bytes'),
    });
    expect(metrics.snapshot()).toMatchObject({ digestMismatches: 4, failedSpans: 1 });
    expect(lazy.shared.generations[5]! % 2).toBe(0);
    lying = false;
    same(await read(lazy.spans.table.layerOffset[5]!, 100), lazy.spans.table.layerOffset[5]!);
  });

  test('of a request for four spans, the wrong one alone is asked for again', async () => {
    const { read, source, lazy } = await open();
    const victim = Math.floor(lazy.spans.table.bitOffset[11]! / 8) + 50;
    source.tamper = (bytes, start, request) => {
      if (request === 0) bytes[victim - start]! ^= 1;
      return bytes;
    };
    const offset = lazy.spans.table.layerOffset[10]!;
    same(await read(offset, 4 * SPAN), offset);
    expect(source.requests).toHaveLength(2);
    expect(source.requests[1]!.start).toBe(Math.floor(lazy.spans.table.bitOffset[11]! / 8));
  });

  test('an archive whose crc32, window or state is wrong gives an error, not bytes', async () => {
    const badCrc = { ...layer, table: { ...layer.table, crc32: layer.table.crc32.map((c) => c ^ 1) } };
    const one = await open(badCrc);
    // The compressed bytes are right: it is not the registry that is to be checked.
    await expect(one.read(SPAN * 2, 10)).rejects.toMatchObject({
      code: 'DIGEST_MISMATCH',
      message: expect.stringMatching(/another CRC-32/),
      hint: expect.stringMatching(/^the archive is damaged or forged/),
    });
    expect(one.metrics.snapshot()).toMatchObject({ badContent: 4, digestMismatches: 0 });
    one.close();
    const two = await open({ ...layer, readState: () => new Uint8Array([1, 2, 3]) });
    await expect(two.read(SPAN * 2, 10)).rejects.toMatchObject({
      code: 'BAD_FORMAT',
      message: expect.stringMatching(/checkpoint state/),
    });
    two.close();
    const three = await open({ ...layer, readState: (span) => layer.readState(span + 1) });
    await expect(three.read(SPAN * 2, 10)).rejects.toMatchObject({
      code: 'BAD_FORMAT',
      message: expect.stringMatching(/its SHA-256 differs/),
    });
  });

  test('short and overlong answers are errors; the source’s own error reaches the reader', async () => {
    const { read, source } = await open();
    source.tamper = (bytes) => bytes.subarray(0, bytes.length - 1);
    await expect(read(0, 10)).rejects.toMatchObject({ code: 'NETWORK' });
    source.tamper = (bytes) => Buffer.concat([bytes, bytes, Buffer.alloc(1 << 20)]);
    // What was asked for came intact before the excess was seen, so it may be served; it must never be served wrong.
    await read(0, 10).then(
      (bytes) => same(bytes, 0),
      () => {},
    );
    source.tamper = () => {
      throw new Error('no such blob');
    };
    await expect(read(9 * SPAN, 10)).rejects.toThrow('no such blob');
  });
});

describe('giving up', () => {
  test('the request ends with its last reader, not before', async () => {
    const { read, source, metrics } = await open();
    source.gate = () => new Promise(() => {});
    const [a, b] = [new AbortController(), new AbortController()];
    const first = read(100, 10, { signal: a.signal });
    const second = read(200, 10, { signal: b.signal });
    first.catch(() => {});
    second.catch(() => {});
    await vi.waitUntil(() => source.requests.length === 1);
    a.abort();
    await expect(first).rejects.toMatchObject({ code: 'ABORTED' });
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(source.requests).toMatchObject([{ aborted: false }]);
    b.abort();
    await expect(second).rejects.toMatchObject({ code: 'ABORTED' });
    await vi.waitFor(() => expect(source.requests).toMatchObject([{ aborted: true }]));
    // Bug: bytes were counted when they were asked for, also those that never came.
    const none = { abortedSpans: 1, failedSpans: 0, requests: 1, spansFetched: 0, demandBytes: 0 };
    expect(metrics.snapshot()).toMatchObject(none);
    source.gate = () => undefined;
    same(await read(100, 10), 100);
    expect(metrics.snapshot()).toMatchObject({ requests: 2, spansFetched: 1 });
  });

  test('a reader who comes while the request is being given up is served', async () => {
    const { read, source } = await open();
    let release: () => void = () => {};
    source.gate = (n) =>
      n === 0
        ? new Promise((resolve) => {
            release = resolve;
          })
        : undefined;
    const a = new AbortController();
    const first = read(100, 10, { signal: a.signal });
    first.catch(() => {});
    await vi.waitUntil(() => source.requests.length === 1);
    a.abort();
    const second = read(100, 10);
    release();
    same(await second, 100);
  });
});

describe('after a restart', () => {
  test('what is intact is used without a request, what was flipped or cut off is fetched again', async () => {
    const first = await open();
    await first.read(0, raw.length);
    const flipped = first.lazy.spans.table.layerOffset[4]! + 77;
    const cutAt = first.lazy.spans.table.layerOffset[30]! + 10;
    const { path } = first.lazy.cached;
    first.close();
    const fd = openSync(path, 'r+');
    writeSync(fd, Buffer.from([raw[flipped]! ^ 0x10]), 0, 1, flipped);
    closeSync(fd);
    truncateSync(path, cutAt);

    const second = await open();
    same(await second.read(0, raw.length), 0);
    const { spansChecked, spansDamaged, spansFetched } = second.metrics.snapshot();
    const lost = layer.table.count - 30;
    expect(spansFetched).toBe(lost + 1);
    expect(spansChecked).toBe(30 - 1);
    // Wholly absent spans are holes and not worth a look.
    expect(spansDamaged).toBeGreaterThanOrEqual(1);
    expect(spansDamaged).toBeLessThanOrEqual(3);
    same(await second.read(flipped - 10, 20), flipped - 10);
  });

  test('an unknown cache format is discarded', async () => {
    const first = await open();
    await first.read(0, 10);
    first.close();
    writeFileVersion('something else 9');
    const second = await open();
    expect(second.cache.stats().usedBytes).toBe(0);
    same(await second.read(0, 10), 0);
    expect(second.source.requests).toHaveLength(1);
  });

  function writeFileVersion(text: string): void {
    const fd = openSync(join(stage.dir, 'cache/version'), 'w');
    writeSync(fd, text);
    closeSync(fd);
  }
});
