import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type LazyTestLayer, lazyStage } from '../../../test/support/lazy-layers.js';
import { compressibleBytes, type FakeSource, gzipLayer } from '../../../test/support/span-layers.js';
import { newTouchRecords, noteTouch, noteUse, stopRecording } from '../../spans/index.js';
import { parseProfile, profileSpans, shapedCuts, touchedRanges } from '../profile.js';

const SPAN = 32 * 1024;
const raw = compressibleBytes(64 * SPAN);
const layer = gzipLayer(raw, SPAN);
const { count, layerOffset } = layer.table;
const stage = lazyStage();

interface Opened extends LazyTestLayer {
  source: FakeSource;
  read(offset: number, length: number, sequential?: boolean): Promise<void>;
}

async function open(maxBytes = 1 << 30, readahead = true): Promise<Opened> {
  const made = await stage.open(layer, { readahead, cacheOptions: { maxBytes } });
  const { opened } = made;
  const read = async (offset: number, length: number, sequential = false): Promise<void> => {
    const hint = sequential ? { file: { key: 'f', end: raw.length } } : {};
    const got = await opened.read(offset, length, hint);
    expect(Buffer.compare(got, raw.subarray(offset, offset + length))).toBe(0);
  };
  return { ...made, read };
}

const settle = (ms = 50): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe('read-ahead', () => {
  test('a sequential reader is overtaken by ever larger requests, and all of it is useful', async () => {
    const { read, source, metrics, opened } = await open();
    for (let at = 0; at < raw.length; at += 8192) {
      // As FUSE does it: what is present is read by a worker, which only notes the use.
      let missing = false;
      for (let span = 0; span < count; span++) {
        if (layerOffset[span + 1]! <= at || layerOffset[span]! >= at + 8192) continue;
        if (opened.layer.has(span)) noteUse(opened.layer.shared, span);
        else missing = true;
      }
      if (missing) await read(at, Math.min(8192, raw.length - at), true);
      else if (at % (4 * 8192) === 0) await settle(6);
    }
    await settle();
    const { readaheadBytes, readaheadUsefulBytes, readaheadWastedBytes, demandBytes } = metrics.snapshot();
    expect(source.requests.length).toBeLessThan(count / 3);
    expect(readaheadBytes).toBeGreaterThan(demandBytes! * 3);
    expect(readaheadUsefulBytes).toBe(readaheadBytes);
    expect(readaheadWastedBytes).toBe(0);
  });

  test('scattered reads, and reads without a file, fetch nothing ahead', async () => {
    const { read, metrics } = await open();
    for (let i = 0; i < 40; i++) await read(((i * 37) % count) * SPAN, 4096, true);
    for (let span = 0; span < count; span++) await read(layerOffset[span]!, 100);
    expect(metrics.snapshot()).toMatchObject({ readaheadBytes: 0 });
  });

  test('switched off, a sequential reader fetches span by span', async () => {
    const { read, metrics, source } = await open(1 << 30, false);
    for (let span = 0; span < 10; span++) await read(layerOffset[span]!, SPAN, true);
    expect(metrics.snapshot()).toMatchObject({ readaheadBytes: 0 });
    expect(source.requests).toHaveLength(10);
  });

  test('nothing is fetched beyond the end of the file, and what goes unread is booked as wasted', async () => {
    const { opened, metrics } = await open();
    const end = layerOffset[9]! + 5;
    for (let span = 0; span < 6; span++) {
      await opened.read(layerOffset[span]!, 100, { file: { key: 1, end } });
      await settle(5);
    }
    await settle();
    for (let span = 10; span < count; span++) expect(opened.layer.has(span)).toBe(false);
    const before = metrics.snapshot();
    expect(before.readaheadBytes).toBeGreaterThan(0);
    opened.close();
    const { readaheadBytes, readaheadUsefulBytes, readaheadWastedBytes } = metrics.snapshot();
    expect(readaheadUsefulBytes! + readaheadWastedBytes!).toBe(readaheadBytes);
    expect(readaheadWastedBytes).toBeGreaterThan(0);
  });
});

describe('prefetch', () => {
  test('spans come in few requests, are booked apart, and a reader finds them', async () => {
    const { set, opened, source, metrics, read } = await open();
    const span = Uint32Array.from([5, 6, 7, 40, 41, 2, 3]);
    const { progress, finished } = set.prefetch([opened], { layer: new Uint32Array(7), span });
    await finished;
    expect(progress).toMatchObject({ done: 7, failed: 0, total: 7 });
    expect(progress.doneBytes).toBe(progress.totalBytes);
    expect(progress.totalBytes).toBeGreaterThan(0);
    // 2 and 3 with 5 to 7, from which a small gap parts them, though they were wished for later.
    expect(source.requests).toHaveLength(2);
    await read(layerOffset[40]!, 10);
    expect(source.requests).toHaveLength(2);
    const { prefetchBytes, prefetchUsefulBytes, demandBytes } = metrics.snapshot();
    expect(demandBytes).toBe(0);
    expect(prefetchUsefulBytes).toBeGreaterThan(0);
    expect(prefetchUsefulBytes).toBeLessThan(prefetchBytes!);
  });

  test('it stops at the cap and evicts nothing that was read', async () => {
    const { set, opened, cache, read } = await open(10 * SPAN);
    for (let span = 0; span < 6; span++) await read(layerOffset[span]!, 10);
    const span = Uint32Array.from({ length: 20 }, (_, i) => 20 + i);
    const { progress, finished } = set.prefetch([opened], { layer: new Uint32Array(20), span });
    await finished;
    expect(progress.done).toBeLessThan(20);
    expect(progress.doneBytes).toBeLessThan(progress.totalBytes);
    for (let i = 0; i < 6; i++) expect(opened.layer.has(i)).toBe(true);
    expect(cache.usedBytes).toBeLessThanOrEqual(10 * SPAN);
    expect(cache.usedBytes).toBeGreaterThan(8 * SPAN);
  });

  test('called off, it ends its requests', async () => {
    const { set, opened, source } = await open();
    source.gate = () => new Promise(() => {});
    const abort = new AbortController();
    const span = Uint32Array.from({ length: 30 }, (_, i) => i);
    const { progress, finished } = set.prefetch([opened], { layer: new Uint32Array(30), span }, abort.signal);
    await settle();
    abort.abort();
    await finished;
    expect(progress).toMatchObject({ done: 0 });
    expect(source.requests.every((request) => request.aborted)).toBe(true);
  });

  test('a reader joins the request that is bringing its span', async () => {
    const { set, opened, source, read } = await open();
    let release: () => void = () => {};
    source.gate = () =>
      new Promise((resolve) => {
        release = resolve;
      });
    const { finished } = set.prefetch([opened], { layer: new Uint32Array(2), span: Uint32Array.from([8, 9]) });
    await settle(10);
    const reading = read(layerOffset[9]!, 50);
    release();
    await Promise.all([reading, finished]);
    expect(source.requests).toHaveLength(1);
  });
});

describe('fill', () => {
  test('after a quiet moment everything comes, at the rate asked for', async () => {
    const { set, opened, read, metrics } = await open();
    await read(0, 10);
    const before = performance.now();
    const size = layer.blob.length;
    const { progress, finished } = set.fill([opened], { quietMs: 100, bytesPerSecond: size * 2 });
    await settle(60);
    expect(metrics.snapshot().fillBytes).toBe(0);
    await finished;
    expect(performance.now() - before).toBeGreaterThan(100 + 300);
    expect(progress).toMatchObject({ done: count, failed: 0, total: count });
    expect(progress.doneBytes).toBe(progress.totalBytes);
    for (let span = 0; span < count; span++) expect(opened.layer.has(span)).toBe(true);
  });
});

describe('profiles', () => {
  test('touched pages become ranges in the order of their first touch, with small gaps joined', () => {
    const records = newTouchRecords([1 << 20, 1 << 20])!;
    noteTouch(records[1]!, 500_000, 4096);
    noteTouch(records[0]!, 8192, 100);
    noteTouch(records[0]!, 24_576, 4096);
    noteTouch(records[0]!, 900_000, 10);
    noteTouch(records[1]!, 500_000, 4096);
    stopRecording(records[0]!);
    noteTouch(records[0]!, 0, 4096);
    const ranges = touchedRanges(records, [1 << 20, 1 << 20]);
    expect(ranges).toEqual([
      { layer: 1, start: 499_712, end: 507_904 },
      { layer: 0, start: 8192, end: 28_672 },
      { layer: 0, start: 897_024, end: 901_120 },
    ]);
    const text = JSON.stringify({ format: 'clip profile 1', manifestDigest: 'sha256:1', layers: ['a', 'b'], ranges });
    expect(parseProfile(text, 'p.json').ranges).toEqual(ranges);
    for (const bad of [
      '',
      '{}',
      '[]',
      'null',
      text.replace('"end":28672', '"end":1'),
      text.replace('"layer":1', '"layer":7'),
    ]) {
      expect(() => parseProfile(bad, 'p.json')).toThrow(/^p\.json: /);
    }
  });

  test('shaped cuts make every range a union of spans, none longer than asked for', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(999_999), fc.integer({ min: 1, max: 90_000 }))), (list) => {
        const size = 1_000_000;
        const ranges = list.map(([start, length]) => ({ layer: 0, start, end: Math.min(size, start + length) }));
        const cuts = [0, ...shapedCuts(ranges, 0, size, 50_000), size];
        for (let i = 1; i < cuts.length; i++) {
          expect(cuts[i]!).toBeGreaterThan(cuts[i - 1]!);
          expect(cuts[i]! - cuts[i - 1]!).toBeLessThanOrEqual(50_000);
        }
        for (const { start, end } of ranges) {
          expect(cuts).toContain(start);
          expect(cuts).toContain(end);
        }
        const table = { ...layer.table, count: cuts.length - 1, layerOffset: Float64Array.from(cuts) };
        const { span } = profileSpans(ranges, [table]);
        expect(new Set(span).size).toBe(span.length);
      }),
    );
  });
});
