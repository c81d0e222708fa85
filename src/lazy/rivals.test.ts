import { describe, expect, test } from 'vitest';
import { lazyStage } from '../../test/support/lazy-layers.js';
import { eventually } from '../../test/support/mounted.js';
import { compressibleBytes, FakeSource, gzipLayer, zstdFrames, zstdLayer } from '../../test/support/span-layers.js';
import { ClipError } from '../bytes/index.js';
import { Priority } from './inflate-tasks.js';
import type { LayerClaim } from './layer-claim.js';
import type { LayerProvider } from './types.js';

// Two images share a layer, and the registry of one of them is slow or dead (docs/architecture.md, "Invariant 2").

const SPAN = 64 * 1024;
const raw = compressibleBytes(20 * SPAN);
const stage = lazyStage();

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
    /** The layer of another image. */
    beside: (source: FakeSource, readState?: LayerProvider['readState']) => LayerClaim;
  }
  async function open(): Promise<Images> {
    const made = await stage.open(layer);
    const beside: Images['beside'] = (source, readState = (span) => layer.readState(span)) => {
      const claim = made.set.open({ ...layer, readState, source });
      stage.cleanup.push(() => claim.close());
      expect(claim.layer).toBe(made.opened.layer);
      return claim;
    };
    const goodSource = new FakeSource(layer.blob);
    const good = beside(goodSource);
    return { slow: made.opened, slowSource: made.source, good, goodSource, metrics: made.metrics, beside };
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

  test('what another image only means to fetch ahead is no reason to wait for its source', async () => {
    if (layer.table.kind === 'zstd-stream') return; // each image reads it by itself, in order
    const { slow, slowSource, good, metrics } = await open();
    slowSource.gate = never;
    const apart = [0, 4, 8, 12, 16];
    for (const span of apart) slow.ahead(span, Priority.fill)?.catch(() => {});
    await eventually(() => slowSource.requests.length > 0);
    // The others wait for their turn, which never comes.
    const { spans } = slow.layer;
    const isUnderWay = (span: number): boolean =>
      slowSource.requests.some(({ start, end }) => start < spans.byteEnd(span) && spans.byteStart(span) + 1 < end!);
    const waiting = apart.filter((span) => !isUnderWay(span));
    expect(waiting.length).toBeGreaterThan(0);
    for (const span of waiting) check(await good.read(span * SPAN, 100), span * SPAN);
    expect(metrics.snapshot()).toMatchObject({ rivalFetches: 0 });
  });

  test('a reader that joined a fetch whose sources fail at once is served by its own', async () => {
    const { slow, slowSource, good, goodSource, beside } = await open();
    // As many dead sources as are asked for one span, both before the good one.
    const otherSource = new FakeSource(layer.blob);
    otherSource.gate = refuse;
    good.close();
    const other = beside(otherSource);
    const last = beside(goodSource);
    let fail = (): void => {};
    slowSource.gate = () =>
      new Promise((_, reject) => {
        fail = () => reject(new ClipError('NETWORK', 'connection refused'));
      });
    // Again and again, although another image's readers ask for each span first.
    for (let span = 0; span < 5; span++) {
      const asked = slowSource.requests.length;
      const reads = [slow, other, last].map((claim) => claim.read(span * SPAN, 100));
      let over = false; // at once, if a stream has come that far
      const settled = Promise.allSettled(reads).then(() => {
        over = true;
      });
      await eventually(() => over || slowSource.requests.length > asked);
      fail();
      check(await reads[2]!, span * SPAN);
      await settled;
    }
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
