import { describe, expect, test } from 'vitest';
import { LayerSpans } from '../spans/index.js';
import { FetchQueue, type QueuedLayer } from './fetch-queue.js';
import { PRIORITIES, Priority } from './inflate-tasks.js';
import { SpanJob } from './job.js';
import { Links } from './link.js';
import type { LayerProvider } from './types.js';

const KIB = 1024;

interface Fetch {
  readonly spans: number[];
  /** The bytes of its first spans have come. */
  arrived(spans: number): Promise<void>;
  done(): Promise<void>;
}

const provider = (): LayerProvider => ({ source: {} as LayerProvider['source'], blobSize: 0, readState: () => null });
const SOURCE = provider();
/** Of a registry that answers several ranges in one request. */
const PARTS: LayerProvider = { ...SOURCE, source: { takesParts: () => true } as unknown as LayerProvider['source'] };

/** A layer of spans of one compressed size, whose requests end when the test says so. */
class Layer implements QueuedLayer {
  readonly spans: LayerSpans;
  readonly jobs = new Map<number, SpanJob>();
  readonly fetches: Fetch[] = [];
  readonly abandoned: number[] = [];

  constructor(
    readonly queue: FetchQueue,
    spanBytes: number,
    count = 400,
  ) {
    const offsets = Float64Array.from({ length: count + 1 }, (_, i) => i * spanBytes);
    this.spans = new LayerSpans('sha256:0', {
      kind: 'tar',
      count,
      layerOffset: offsets,
      bitOffset: offsets.map((offset) => offset * 8),
      crc32: new Uint32Array(count),
      sha256: new Uint8Array(32 * count),
      stateSha256: new Uint8Array(0),
    });
  }

  job(span: number): SpanJob | undefined {
    return this.jobs.get(span);
  }

  abandon(job: SpanJob): void {
    this.jobs.delete(job.span);
    this.abandoned.push(job.span);
  }

  fetch(jobs: readonly SpanJob[]): Promise<void> {
    return new Promise((resolve) => {
      this.fetches.push({
        spans: jobs.map((job) => job.span),
        arrived: async (spans) => {
          for (const job of jobs.slice(0, spans)) this.queue.arrived(job);
          await turn();
        },
        done: async () => {
          for (const job of jobs) {
            this.jobs.delete(job.span);
            this.queue.ended(job);
          }
          resolve();
          await turn();
        },
      });
    });
  }

  add(span: number, priority: Priority, from = SOURCE): SpanJob {
    const job = new SpanJob(span, priority, from);
    if (priority === Priority.demand) job.waiters = 1;
    else job.background = true;
    this.jobs.set(span, job);
    this.queue.add(this, job);
    return job;
  }

  get asked(): number[][] {
    return this.fetches.map(({ spans }) => spans);
  }
}

/** Requests leave when the event loop has delivered the whole burst. */
const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve));

describe('what goes out together', () => {
  test('a burst in any order makes one request of neighbours, and one of what is apart', async () => {
    const layer = new Layer(new FetchQueue(() => false), 100 * KIB);
    for (const span of [7, 5, 6, 9]) layer.add(span, Priority.demand);
    expect(layer.fetches).toEqual([]);
    await turn();
    expect(layer.asked).toEqual([[5, 6, 7], [9]]);
  });

  test('a request is no larger than 8 MiB', async () => {
    const layer = new Layer(new FetchQueue(() => false), 1024 * KIB);
    for (let span = 0; span < 20; span++) layer.add(span, Priority.demand);
    await turn();
    expect(layer.asked.map((spans) => spans.length)).toEqual([8, 8, 4]);
  });

  test('a reader’s request takes read-ahead along that follows it, and no prefetch', async () => {
    const layer = new Layer(new FetchQueue(() => false), 100 * KIB);
    layer.add(4, Priority.readahead);
    layer.add(5, Priority.demand);
    layer.add(6, Priority.readahead);
    layer.add(7, Priority.prefetch);
    await turn();
    expect(layer.asked).toEqual([[5, 6], [4], [7]]);
  });

  test('prefetch joins across a small gap in both directions, and not across a large one', async () => {
    const layer = new Layer(new FetchQueue(() => false), 64 * KIB);
    for (const span of [10, 12, 8, 20]) layer.add(span, Priority.prefetch);
    await turn();
    expect(layer.asked).toEqual([[8, 10, 12], [20]]);
  });

  test('what a profile wants first shares the link with little else: requests of 3 MiB, and 6 MiB on their way', async () => {
    const queue = new FetchQueue(() => false);
    const layer = new Layer(queue, 512 * KIB);
    // First what lies last: 30 neighbours there, then 30 at the beginning.
    for (const first of [300, 0]) for (let i = 0; i < 30; i++) layer.add(first + i, Priority.prefetch);
    await turn();
    const ahead = (from: number): number[] => Array.from({ length: 6 }, (_, i) => from + i);
    expect(layer.asked).toEqual([ahead(300), ahead(306)]);
    await layer.fetches[0]!.done();
    expect(layer.asked.slice(2)).toEqual([ahead(312)]);
  });

  test('of a source that answers several ranges: a profile’s spans in their order, neighbours as one range, no bytes between', async () => {
    const layer = new Layer(new FetchQueue(() => false), 64 * KIB);
    for (const span of [90, 10, 12, 300, 11, 8]) layer.add(span, Priority.prefetch, PARTS);
    await turn();
    expect(layer.asked).toEqual([[90, 10, 11, 12, 300, 8]]);
  });

  test('so do read-ahead, guesses and a fill; what a reader waits for goes out as single ranges', async () => {
    for (const priority of PRIORITIES) {
      const layer = new Layer(new FetchQueue(() => false), 64 * KIB);
      for (const span of [5, 90, 40]) layer.add(span, priority, PARTS);
      await turn();
      expect(layer.asked).toEqual(priority === Priority.demand ? [[5], [90], [40]] : [[5, 90, 40]]);
    }
  });

  test('read-ahead in parts has what the link carries in a round trip; over a slow link each stretch has a request of its own', async () => {
    const asked = async (bytesPerMs: number): Promise<number[][]> => {
      const links = new Links();
      const link = links.answered(PARTS.source, 'a');
      link.began(20, 0, 0);
      link.received(100 * bytesPerMs, 100);
      link.ended(100);
      const layer = new Layer(new FetchQueue(() => false, links), 500 * KIB);
      for (const span of [90, 10, 50, 30, 70, 20, 11]) layer.add(span, Priority.readahead, PARTS);
      await turn();
      return layer.asked;
    };
    expect(await asked(125_000)).toEqual([
      [90, 10, 11, 50],
      [30, 70, 20],
    ]);
    expect(await asked(10_000)).toEqual([[90], [10, 11], [50], [30], [70], [20]]);
  });

  test('beside a reader’s own request there is as much as the link carries in a round trip, and the rest when that has come', async () => {
    const layer = new Layer(new FetchQueue(() => false), 500 * KIB);
    layer.add(200, Priority.demand);
    for (let span = 0; span < 100; span += 10) layer.add(span, Priority.readahead);
    await turn();
    // Before the link was measured 1.25 MiB.
    expect(layer.asked).toEqual([[200], [0], [10], [20]]);
    await layer.fetches[1]!.done();
    expect(layer.asked.slice(4)).toEqual([[30]]);
    await layer.fetches[0]!.done();
    expect(layer.asked.slice(5)).toEqual([[40], [50], [60], [70], [80]]);
  });

  test('a sequential reader’s stretch is one range of up to 8 MiB, whatever the link carries', async () => {
    const layer = new Layer(new FetchQueue(() => false), 512 * KIB);
    for (let span = 3; span < 23; span++) layer.add(span, Priority.readahead, PARTS);
    layer.add(90, Priority.readahead, PARTS);
    await turn();
    const from = (first: number, count: number): number[] => Array.from({ length: count }, (_, i) => first + i);
    expect(layer.asked).toEqual([from(3, 16), [...from(19, 4)], [90]]);
  });

  test('with short gaps one range; a request has at most 40 ranges, and before the link was measured 1.25 MiB, and 3 MiB are on their way', async () => {
    const short = new Layer(new FetchQueue(() => false), 16 * KIB);
    for (let i = 0; i < 100; i++) short.add(4 * i, Priority.prefetch, PARTS);
    short.add(2, Priority.prefetch, PARTS);
    await turn();
    // 0, 2 and 4 in one: 16 KiB lie between them; 48 KiB between the others.
    expect(short.asked.map((spans) => spans.length)).toEqual([42, 40, 19]);
    expect(short.asked[0]!.slice(0, 4)).toEqual([0, 2, 4, 8]);
    const long = new Layer(new FetchQueue(() => false), 512 * KIB);
    for (let i = 0; i < 20; i++) long.add(300 - 10 * i, Priority.prefetch, PARTS);
    await turn();
    const pair = (span: number): number[] => [span, span - 10];
    expect(long.asked).toEqual([300, 280, 260].map(pair));
  });

  test('the next request of a profile leaves when enough of the earlier ones has come, before any of them is over', async () => {
    const layer = new Layer(new FetchQueue(() => false), 512 * KIB);
    for (let i = 0; i < 39; i++) layer.add(390 - 10 * i, Priority.prefetch, PARTS);
    await turn();
    expect(layer.fetches).toHaveLength(3);
    await layer.fetches[0]!.arrived(1);
    expect(layer.fetches).toHaveLength(4);
    // What has come counts once, however its request ends.
    await layer.fetches[0]!.done();
    expect(layer.fetches).toHaveLength(4);
    await layer.fetches[1]!.done();
    expect(layer.fetches).toHaveLength(5);
  });

  test('a span that was wrong, or that the source did not give as a part, is not asked for so again', async () => {
    const layer = new Layer(new FetchQueue(() => false), 64 * KIB);
    const jobs = [5, 90, 40, 200].map((span) => layer.add(span, Priority.prefetch, PARTS));
    jobs[1]!.mismatches = 1;
    jobs[3]!.apart = true;
    await turn();
    expect(layer.asked).toEqual([[5, 40], [90], [200]]);
  });

  test('a span that was wrong is asked for alone', async () => {
    const layer = new Layer(new FetchQueue(() => false), 100 * KIB);
    layer.add(5, Priority.demand);
    layer.add(6, Priority.demand).mismatches = 1;
    layer.add(7, Priority.demand);
    await turn();
    expect(layer.asked).toEqual([[5], [6], [7]]);
  });
});

describe('what goes first', () => {
  test('the more urgent, whatever came first; with fill no more than two are fetched ahead', async () => {
    const layer = new Layer(new FetchQueue(() => false), 100 * KIB);
    layer.add(50, Priority.fill);
    layer.add(60, Priority.fill);
    layer.add(70, Priority.fill);
    layer.add(30, Priority.prefetch);
    layer.add(10, Priority.demand);
    await turn();
    expect(layer.asked).toEqual([[10], [30], [50]]);
    await layer.fetches[1]!.done();
    expect(layer.asked.slice(3)).toEqual([[60]]);
    await layer.fetches[2]!.done();
    expect(layer.asked.slice(4)).toEqual([[70]]);
  });

  test('readers may use all 32 requests, what is fetched ahead 8', async () => {
    const queue = new FetchQueue(() => false);
    const layer = new Layer(queue, 300 * KIB);
    for (let i = 0; i < 40; i++) layer.add(2 * i, Priority.readahead);
    await turn();
    expect(layer.fetches).toHaveLength(8);
    for (let i = 0; i < 40; i++) layer.add(100 + 2 * i, Priority.demand);
    await turn();
    expect(layer.fetches).toHaveLength(32);
    expect(queue.active).toBe(32);
    expect(queue.waiting).toBe(48);
  });

  test('nothing is fetched ahead while there is too much work, and a reader is not held up', async () => {
    let busy = true;
    const queue = new FetchQueue(() => busy);
    const layer = new Layer(queue, 100 * KIB);
    layer.add(3, Priority.prefetch);
    layer.add(9, Priority.demand);
    await turn();
    expect(layer.asked).toEqual([[9]]);
    busy = false;
    queue.wake();
    await turn();
    expect(layer.asked).toEqual([[9], [3]]);
  });

  test('a waiting job that becomes urgent leaves at once, and tells its lookup', async () => {
    const queue = new FetchQueue(() => true);
    const layer = new Layer(queue, 100 * KIB);
    const job = layer.add(3, Priority.fill);
    let hurried = 0;
    job.onUrgent = () => hurried++;
    await turn();
    expect(layer.fetches).toEqual([]);
    queue.raise(job, Priority.demand);
    await turn();
    expect(layer.asked).toEqual([[3]]);
    expect(job).toMatchObject({ phase: 'fetching', fetchedAs: Priority.demand });
    expect(hurried).toBe(1);
  });
});

test('a job that is not wanted any more ends without a request, but not one that has left', async () => {
  const queue = new FetchQueue(() => false);
  const layer = new Layer(queue, 100 * KIB);
  const waiting = layer.add(3, Priority.demand);
  waiting.carrier!.reconsider(waiting);
  const gone = layer.add(9, Priority.demand);
  await turn();
  expect(layer.abandoned).toEqual([3]);
  expect(layer.asked).toEqual([[9]]);
  expect(gone.carrier).toBeNull();
  expect(queue.waiting).toBe(0);
});
