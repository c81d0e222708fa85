import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openLazyLayer } from '../../test/support/lazy-layers.js';
import { eventually } from '../../test/support/mounted.js';
import { compressibleBytes, FakeSource, gzipLayer, zstdFrames, zstdLayer } from '../../test/support/span-layers.js';
import { ClipError } from '../bytes/index.js';
import { InflatePool } from './inflate-pool.js';
import type { LayerClaim } from './layer-claim.js';

// Two images share a layer, and the registry of one of them is slow or dead (docs/architecture.md, "Invariant 2").

const SPAN = 64 * 1024;
const raw = compressibleBytes(20 * SPAN);
let pool: InflatePool;
let dir: string;
const cleanup: (() => void)[] = [];

beforeAll(() => {
  pool = new InflatePool({ workers: 2 });
});
afterAll(() => pool.close());
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'clip-rivals-'));
});
afterEach(() => {
  for (const undo of cleanup.splice(0).reverse()) undo();
  rmSync(dir, { recursive: true, force: true });
});

const never = (): Promise<void> => new Promise(() => {});
const refuse = (): Promise<void> => Promise.reject(new ClipError('NETWORK', 'half a blob'));

describe.each([
  ['gzip', gzipLayer(raw, SPAN)],
  ['a zstd stream', zstdLayer(raw, SPAN, zstdFrames([raw]))],
])('%s', (_, layer) => {
  interface Images {
    slow: LayerClaim;
    slowSource: FakeSource;
    good: LayerClaim;
    goodSource: FakeSource;
    metrics: { snapshot(): Record<string, number> };
  }
  async function open(): Promise<Images> {
    const made = await openLazyLayer(layer, join(dir, 'cache'), { pool });
    const goodSource = new FakeSource(layer.blob);
    const good = made.set.open({ ...layer, readState: (span) => layer.readState(span), source: goodSource });
    cleanup.push(made.close, () => good.close());
    expect(good.layer).toBe(made.opened.layer);
    return { slow: made.opened, slowSource: made.source, good, goodSource, metrics: made.metrics };
  }
  const check = (got: Uint8Array, offset: number): void => {
    expect(Buffer.compare(got, raw.subarray(offset, offset + got.length))).toBe(0);
  };

  test('a reader that joined the fetch from a dead source is served by its own, and so is the other reader', async () => {
    const { slow, slowSource, good, goodSource, metrics } = await open();
    slowSource.gate = never;
    const stuck = slow.read(1000, 100);
    await eventually(() => slowSource.requests.length === 1);
    check(await good.read(1050, 100), 1050);
    check(await stuck, 1000);
    expect(goodSource.requests.length).toBe(1);
    await eventually(() => slowSource.requests[0]!.aborted);
    expect(metrics.snapshot()).toMatchObject({ rivalFetches: 1, failedSpans: 0 });
    // The next one goes to the reader's own source at once.
    check(await good.read(10 * SPAN, 100), 10 * SPAN);
    expect(slowSource.requests.length).toBe(1);
  });

  test('a reader of the same image starts no second fetch', async () => {
    const { slow, slowSource, metrics } = await open();
    slowSource.gate = () => new Promise((resolve) => setTimeout(resolve, 600));
    const [first, second] = await Promise.all([slow.read(1000, 100), slow.read(2000, 100)]);
    check(first, 1000);
    check(second, 2000);
    expect(metrics.snapshot()).toMatchObject({ rivalFetches: 0 });
  });

  test('when the second fetch fails the first goes on; when both fail the readers hear of it', async () => {
    const { slow, slowSource, good, goodSource, metrics } = await open();
    let release = (): void => {};
    slowSource.gate = () =>
      new Promise((resolve) => {
        release = resolve;
      });
    goodSource.gate = refuse;
    const first = slow.read(1000, 100);
    await eventually(() => slowSource.requests.length === 1);
    const second = good.read(1000, 100);
    await eventually(() => goodSource.requests.length === 1);
    release();
    check(await first, 1000);
    check(await second, 1000);
    expect(metrics.snapshot()).toMatchObject({ rivalFetches: 1, failedSpans: 0 });

    let fail = (_: Error): void => {};
    slowSource.gate = () =>
      new Promise((_, reject) => {
        fail = reject;
      });
    const at = 10 * SPAN;
    const asked = slowSource.requests.length;
    const reads = Promise.allSettled([slow.read(at, 100), good.read(at, 100)]);
    const tried = goodSource.requests.length;
    await eventually(() => slowSource.requests.length > asked && goodSource.requests.length > tried);
    slowSource.gate = refuse;
    fail(new ClipError('NETWORK', 'no route'));
    for (const result of await reads) expect(result).toMatchObject({ status: 'rejected', reason: { code: 'NETWORK' } });
  });

  test('closing the image of the dead source leaves the other one whole', async () => {
    const { slow, slowSource, good } = await open();
    slowSource.gate = never;
    const abort = new AbortController();
    const stuck = slow.read(1000, 100, { signal: abort.signal });
    stuck.catch(() => {});
    await eventually(() => slowSource.requests.length === 1);
    const reading = good.read(1000, 100);
    abort.abort();
    slow.close();
    check(await reading, 1000);
    check(await good.read(0, raw.length), 0);
  });
});
