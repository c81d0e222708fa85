import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { lazyStage, quiet } from '../../../test/support/lazy-layers.js';
import { type FakeSource, gzipLayer } from '../../../test/support/span-layers.js';
import type { References } from '../../archive/index.js';
import type { Metrics } from '../../metrics/index.js';
import { newTouchRecords, noteTouch, noteUse } from '../../spans/index.js';
import type { LayerClaim } from '../layer-claim.js';
import { Follower } from './by-reference.js';
import type { FollowedImage, LayerPiece } from './followed-image.js';

const SPAN = 128 * 1024;
const raw = randomBytes(160 * SPAN);
const layer = gzipLayer(raw, SPAN);
/** Files lie one after the other, each of this length; its nid is 100 and its place among them. */
const FILE = 4 * SPAN;
const FILES = raw.length / FILE;
const stage = lazyStage();

/** References of files to others; `pages` for those that are not read whole. */
function references(links: Record<number, number[]>, pages: Record<number, number[]> = {}): References {
  const [firstTarget, firstRange] = [new Uint32Array(FILES + 1), new Uint32Array(FILES + 1)];
  const [target, range]: [number[], number[]] = [[], []];
  for (let i = 0; i < FILES; i++) {
    target.push(...(links[i] ?? []));
    range.push(...(pages[i] ?? []));
    firstTarget[i + 1] = target.length;
    firstRange[i + 1] = range.length;
  }
  const nid = Float64Array.from({ length: FILES }, (_, i) => 100 + i);
  return {
    ...{ count: FILES, nid, firstTarget, target: Uint32Array.from(target) },
    ...{ firstRange, range: Uint32Array.from(range) },
  };
}

const piece = (file: number, offset = 0): LayerPiece => ({ layer: 0, layerOffset: file * FILE + offset, length: 4096 });

interface Opened {
  opened: LayerClaim;
  source: FakeSource;
  metrics: Metrics;
  follower: Follower;
  faults: unknown[];
  code: unknown[];
  /** As ImageMount does it: the read first. */
  miss(file: number, offset?: number): Promise<void>;
}

async function open(refs: References, maxBytes = 1 << 30): Promise<Opened> {
  const { opened, source, metrics, cache } = await stage.open(layer, { readahead: true, cacheOptions: { maxBytes } });
  const faults: unknown[] = [];
  const code: unknown[] = [];
  const image: FollowedImage = {
    references: refs,
    layers: [opened],
    hasRoom: (bytes) => cache.hasRoom(bytes),
    map: (nid, offset, length, visit) => {
      if (nid < 100 || nid >= 100 + FILES) throw new Error(`no file ${nid}`);
      const bytes = Math.min(length, FILE - offset);
      if (bytes > 0) visit(0, (nid - 100) * FILE + offset, bytes);
    },
    onFault: (error) => faults.push(error),
  };
  const follower = new Follower(image, { onCode: (nid, segments) => code.push({ nid, code: segments }) });
  stage.cleanup.push(() => follower.close());
  const miss = async (file: number, offset = 0): Promise<void> => {
    const read = opened.read(file * FILE + offset, 4096);
    follower.onMiss(100 + file, [piece(file, offset)]);
    await read;
  };
  return { opened, source, metrics, follower, faults, code, miss };
}

function present({ opened }: Opened): number[] {
  const found: number[] = [];
  for (let file = 0; file < FILES; file++) {
    let whole = true;
    for (let span = 4 * file; span < 4 * file + 4; span++) whole &&= opened.layer.has(span);
    if (whole) found.push(file);
  }
  return found;
}

test('a miss fetches the file and all that it leads to, once, however the links run', async () => {
  const o = await open(references({ 1: [5, 7], 5: [9, 1], 9: [5] }));
  await o.miss(1);
  await quiet(o);
  expect(present(o)).toEqual([1, 5, 7, 9]);
  expect((await o.metrics.snapshot()).spansFetched).toBe(16);
  await o.miss(5, 8192);
  await quiet(o);
  expect((await o.metrics.snapshot()).spansFetched).toBe(16);
  expect(o.faults).toEqual([]);
});

test('a file with ranges is fetched only there', async () => {
  const page = SPAN / 4096;
  const o = await open(references({ 0: [3] }, { 3: [0, 1, 3 * page, page] }));
  await o.miss(0);
  await quiet(o);
  expect([12, 13, 14, 15].map((span) => o.opened.layer.has(span))).toEqual([true, false, false, true]);
});

test('a file that leads nowhere is fetched whole, and nothing else', async () => {
  const o = await open(references({ 1: [2] }));
  await o.miss(3);
  await quiet(o);
  expect(present(o)).toEqual([3]);
});

test('no more lies unread than may, whatever is linked; readers that come nearer pull the rest along', async () => {
  const everything = references({ 0: Array.from({ length: FILES - 1 }, (_, i) => i + 1) });
  const o = await open(everything);
  await o.miss(0);
  await quiet(o);
  const { shared } = o.opened.layer;
  const fetched = async (): Promise<number> => {
    const { readaheadBytes, demandBytes } = await o.metrics.snapshot();
    return readaheadBytes! + demandBytes!;
  };
  const first = await fetched();
  expect(first).toBeGreaterThan(6_500_000);
  expect(first).toBeLessThan(8_000_000);
  // As workers do it: they read what is there, here half of it, and only note the use.
  const there = Array.from({ length: o.opened.layer.spans.count }, (_, span) => span).filter((span) =>
    o.opened.layer.has(span),
  );
  for (const span of there.slice(0, there.length / 2)) noteUse(shared, span);
  await quiet(o);
  const second = await fetched();
  expect(second).toBeGreaterThan(first + 6_000_000);
  expect(second).toBeLessThan(first + 9_000_000);
});

test('a file is followed whose reader need not wait, and comes before what others lead to', async () => {
  const o = await open(references({ 1: [5, 7], 5: [9] }));
  const touch = newTouchRecords([raw.length])!;
  o.follower.watch(touch);
  await o.opened.read(1 * FILE, 4096);
  await o.miss(30);
  await quiet(o);
  expect(present(o)).toEqual([30]);
  // As a worker does it.
  noteTouch(touch[0]!, 1 * FILE, 16 * 1024);
  // Where nothing is read for 2 s, as on a machine that has other work, nothing is watched until a reader waits again.
  const found = async (): Promise<number[]> => {
    await o.miss(30);
    return present(o);
  };
  await expect.poll(found, { timeout: 10_000 }).toEqual([1, 5, 7, 9, 30]);
  expect(o.faults).toEqual([]);
});

test('what an opened file leads to comes before what was to be fetched for others', async () => {
  // File 0 leads to more than may lie unread; file 20 is among the last of it.
  const o = await open(references({ 0: Array.from({ length: 20 }, (_, i) => i + 1), 20: [30] }));
  await o.miss(0);
  await quiet(o);
  expect(present(o)).not.toContain(20);
  await o.miss(20);
  noteUse(o.opened.layer.shared, 4);
  for (let span = 5; span < 40; span++) if (o.opened.layer.has(span)) noteUse(o.opened.layer.shared, span);
  await quiet(o);
  expect(present(o)).toContain(30);
});

test('of a program that was opened its large segments are told, once', async () => {
  const page = SPAN / 4096;
  // Tables, code with its last page, data.
  const o = await open(references({ 3: [4] }, { 3: [0, page, page, 16, 3 * page, 1, 4 * page - 2, 2], 4: [0, 1] }));
  await o.miss(3);
  await o.miss(3, SPAN);
  await o.miss(4);
  expect(o.code).toEqual([{ nid: 103, code: [{ offset: SPAN, length: 2 * SPAN + 4096 }] }]);
});

test('closing calls off what is under way', async () => {
  const o = await open(references({ 0: [1, 2, 3, 4] }));
  o.follower.onMiss(100, [piece(0)]);
  o.follower.close();
  await quiet(o);
  expect(present(o)).toEqual([]);
  o.follower.onMiss(100, [piece(0)]);
  await quiet(o);
  expect(present(o)).toEqual([]);
});

test('a tree that makes no sense ends it, and is told once', async () => {
  const other = {
    ...references({ 0: [1] }),
    nid: Float64Array.from({ length: FILES }, (_, i) => (i === 1 ? 5000 : 100 + i)),
  };
  const broken = await open(other);
  await broken.miss(0);
  await broken.miss(2);
  await quiet(broken);
  expect(broken.faults.map(String)).toEqual(['Error: no file 5000']);
});

test('a full cache is not pushed out', async () => {
  const o = await open(references({ 0: [1, 2, 3, 4, 5] }), 8 * SPAN);
  await o.miss(0);
  await quiet(o);
  expect(present(o).length).toBeLessThanOrEqual(2);
});
