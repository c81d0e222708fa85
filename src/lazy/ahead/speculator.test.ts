import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { lazyStage, quiet } from '../../../test/support/lazy-layers.js';
import { type FakeSource, gzipLayer } from '../../../test/support/span-layers.js';
import type { LayerIndex, Nid, SpanIndex } from '../../bytes/index.js';
import type { Metrics } from '../../metrics/index.js';
import { noteUse } from '../../spans/index.js';
import type { LayerClaim } from '../layer-claim.js';
import type { LinkCost } from '../link.js';
import { Speculator } from './speculator.js';

const SPAN = 128 * 1024;
const SPANS = 160;
const layer = gzipLayer(randomBytes(SPANS * SPAN), SPAN);
/** Spans are short here, so a fast link with a short round trip is as 1 Gbit/s and 20 ms to spans of 2 MiB. */
const LINK: LinkCost = { known: true, roundTripMs: 20, bytesPerMs: 40_000 };
const stage = lazyStage();

interface Opened {
  opened: LayerClaim;
  source: FakeSource;
  metrics: Metrics;
  speculator: Speculator;
  /** A reader waits for a span, which is in a file of `fileSpans` spans. As ImageMount does it: the read first. */
  miss(span: number): Promise<void>;
}

async function open(fileSpans: number, link: LinkCost = LINK, maxBytes = 1 << 30): Promise<Opened> {
  const { opened, source, metrics, cache } = await stage.open(layer, { readahead: true, cacheOptions: { maxBytes } });
  const fileBytes = fileSpans * SPAN;
  const speculator = new Speculator({
    layers: [opened],
    hasRoom: (bytes) => cache.hasRoom(bytes),
    map: (nid, offset, length, visit) =>
      visit(0 as LayerIndex, nid * fileBytes + offset, Math.min(length, fileBytes - offset)),
    onFault: (error) => {
      throw error;
    },
    link: () => link,
    referredBytes: () => 0,
  });
  stage.cleanup.push(() => speculator.close());
  const miss = async (span: number): Promise<void> => {
    const layerOffset = span * SPAN + 4096;
    const read = opened.read(layerOffset, 4096);
    speculator.onMiss(Math.floor(span / fileSpans), [{ layer: 0 as LayerIndex, layerOffset, length: 4096 }]);
    await read;
  };
  return { opened, source, metrics, speculator, miss };
}

const present = ({ opened }: Opened): number[] =>
  Array.from({ length: SPANS }, (_, span) => span).filter((span) => opened.layer.has(span));

const speculated = async ({ metrics }: Opened): Promise<number> => (await metrics.snapshot()).speculatedBytes ?? 0;

/** A reader reads spans one after the other, and the guesses settle behind each. The number of those that it waited for. */
async function readAll(o: Opened, spans: readonly number[]): Promise<number> {
  let waited = 0;
  for (const span of spans) {
    if (o.opened.layer.has(span)) noteUse(o.opened.layer.shared, span);
    else {
      waited++;
      await o.miss(span);
    }
    await quiet(o);
  }
  return waited;
}

test('the rest of a file comes along with its second miss, and is counted as speculated', async () => {
  const o = await open(4);
  await o.miss(21);
  await quiet(o);
  expect(present(o)).toEqual([21]);
  await o.miss(23);
  await quiet(o);
  expect(present(o)).toEqual([20, 21, 22, 23]);
  expect(await speculated(o)).toBeGreaterThan(1.9 * SPAN);
  expect((await o.metrics.snapshot()).demandBytes).toBeLessThan(2.1 * SPAN);
});

test('a directory that is walked is fetched before its reader', async () => {
  const o = await open(1);
  const waited = await readAll(
    o,
    Array.from({ length: 30 }, (_, i) => 10 + i),
  );
  expect(waited).toBeLessThan(10);
  const { speculatedUsefulBytes, speculatedBytes } = await o.metrics.snapshot();
  expect(speculatedUsefulBytes!).toBeGreaterThan(0.7 * speculatedBytes!);
});

test('what references led to says nothing of other files around, but of the rest of its own', async () => {
  const o = await open(1);
  // A walk of a directory would be followed from its ninth span on.
  for (let span = 10; span < 40; span++) o.speculator.onRead(0 as LayerIndex, span, true);
  await o.miss(100);
  await quiet(o);
  expect(present(o)).toEqual([100]);
  for (let span = 50; span < 80; span++) o.speculator.onRead(0 as LayerIndex, span, false);
  await o.miss(101);
  await quiet(o);
  expect(present(o)).toContain(80);
  const wide = await open(16);
  await wide.miss(21);
  wide.speculator.onRead(0 as LayerIndex, 23 as SpanIndex, true);
  await wide.miss(25);
  await quiet(wide);
  expect(present(wide)).toEqual(expect.arrayContaining([22, 24, 26]));
});

test('a program that is paged in at random is fetched whole after a few misses', async () => {
  const o = await open(32);
  const order = Array.from({ length: 32 }, (_, i) => 32 + ((i * 13) % 32));
  const waited = await readAll(o, order);
  expect(waited).toBeLessThan(12);
});

test.each([
  ['upwards, as relocations go', [100, 101], [102]],
  ['downwards, as destructors go', [120, 119, 118], [117, 116]],
  ['upwards beside another walk', [100, 130, 101, 129, 102], [103, 104]],
])('a walk through a library, a page of each span, is followed before all else: %s', async (_, read, next) => {
  // What is asked for first: the link carries no more in a round trip.
  const o = await open(160, { known: true, roundTripMs: 20, bytesPerMs: ((next.length + 0.1) * SPAN) / 20 });
  await o.miss(read[0]!);
  o.source.gate = () => new Promise(() => {});
  for (const span of read.slice(1, -1)) o.speculator.onRead(0 as LayerIndex, span, false);
  const last = read.at(-1)!;
  o.miss(last).catch(() => {});
  const { layer } = o.opened;
  const asked = Array.from({ length: SPANS }, (_, span) => span).filter(
    (span) => layer.fetching(span) && span !== last,
  );
  expect(asked).toEqual(next.toSorted((a, b) => a - b));
});

test('wrong guesses that have used up their bound leave room for a walk', async () => {
  const o = await open(160);
  // Pairs of neighbours: each makes guesses around it, and all are wrong.
  for (const span of [2, 28, 54, 106, 132])
    for (const near of [span, span + 1]) {
      await o.miss(near);
      await quiet(o);
    }
  const before = await speculated(o);
  await o.miss(80);
  await quiet(o);
  expect(await speculated(o)).toBe(before);
  const waited = await readAll(
    o,
    Array.from({ length: 19 }, (_, i) => 79 - i),
  );
  expect(waited).toBeLessThan(10);
});

test('of a program that was opened its code comes at once', async () => {
  const o = await open(32);
  o.speculator.onOpened(1 as Nid, [{ offset: 4 * SPAN, length: 20 * SPAN }]);
  await quiet(o);
  const found = present(o);
  // As much as may lie unread: 2 MB on this link.
  expect(found.length).toBeGreaterThan(10);
  expect(found).toEqual(found.map((_, i) => 36 + i));
});

test('a reader of pages far apart is left alone, and costs a bounded number of bytes', async () => {
  const link = { known: true, roundTripMs: 20, bytesPerMs: 40_000 };
  const o = await open(1, link);
  for (let span = 5; span < SPANS; span += 11) {
    await o.miss(span);
    await quiet(o);
  }
  // 40 MB/s over two round trips and 10 ms: 2 MB; and a tenth of what was read.
  expect(await speculated(o)).toBeLessThan(2_300_000);
});

test('nothing is guessed on a link where a span takes longer than guesses may', async () => {
  const o = await open(16, { known: true, roundTripMs: 20, bytesPerMs: 1_000 });
  for (const span of [33, 35, 37]) await o.miss(span);
  await quiet(o);
  expect(present(o)).toEqual([33, 35, 37]);
});

test('guesses evict nothing', async () => {
  const o = await open(8, LINK, 3 * SPAN);
  await o.miss(20);
  await quiet(o);
  expect(present(o).length).toBeLessThanOrEqual(3);
  expect((await o.metrics.snapshot()).cacheEvictedBytes ?? 0).toBe(0);
});

test('closing calls off what is under way', async () => {
  const o = await open(8);
  let answer = (): void => {};
  const held = new Promise<void>((resolve) => {
    answer = resolve;
  });
  o.source.gate = () => held;
  const read = o.miss(20);
  await new Promise((resolve) => setImmediate(resolve));
  o.speculator.close();
  answer();
  await read;
  await quiet(o);
  expect(present(o)).not.toContain(17);
  await o.miss(80);
  await quiet(o);
  expect(present(o)).not.toContain(79);
});

test('a guess that a reader comes to wait for is fetched once', async () => {
  const o = await open(8);
  const reads = [o.miss(20), o.miss(21), o.miss(19)];
  await Promise.all(reads);
  await quiet(o);
  expect((await o.metrics.snapshot()).spansFetched).toBe(present(o).length);
});
