import path from 'node:path';
import { Clipctl } from '../test/support/clipctl.js';
import { spawnProxy } from '../test/support/proxy-process.js';
import { compressedBytes, localRun } from './floor.js';
import { pythonRoot } from './images.js';
import { warmSharedCache } from './shared-cache.js';
import { measureStarts, memoryOf, ROUNDS, RTT_MS, WORKLOAD } from './starts.js';
import { type BenchContext, bounded, median, type Row, rated, type SuiteResult } from './support.js';

const LINKS = [
  { name: '1 Gbit/s', bytesPerSecond: 125e6 },
  { name: '200 Mbit/s', bytesPerSecond: 25e6 },
] as const;

/** From `clipctl mount` to the workload's own output, cold caches everywhere, through a link of 20 ms and a given rate. */
export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const image = await ctx.python();
  const scratch = await ctx.scratch();
  const rows: Row[] = [];
  const indexer = await Clipctl.create({ parent: scratch });
  ctx.defer(() => indexer.close());

  const fine = path.join(scratch, 'fine.clip');
  await indexer.ok('index', '--image', image.reference, '--out', fine, '--checkpoint', '1');
  const local = await localRun(await pythonRoot(ctx), WORKLOAD, ROUNDS);
  const own = Math.min(...local.seconds);
  const needed = compressedBytes(fine, local.touched).pages;
  rows.push({ metric: 'unpacked, caches dropped: ready', value: own, unit: 's' });
  rows.push({ metric: 'compressed bytes of the touched pages', value: needed / 1e6, unit: 'MB' });

  const [, repository] = image.reference.split(/\/(.*)/);
  for (const link of LINKS) {
    const upstream = `http://${image.reference.split('/')[0]}`;
    const proxy = await spawnProxy({ upstream, latencyMs: RTT_MS, bytesPerSecond: link.bytesPerSecond });
    ctx.defer(() => proxy.stop());
    const floor = (3 * RTT_MS) / 1000 + needed / link.bytesPerSecond + own;
    rows.push({ metric: `${link.name}: floor`, value: floor, unit: 's' });

    const clip = path.join(scratch, 'plain.clip');
    await indexer.ok(
      'index',
      '--image',
      image.reference,
      '--storage-image',
      `${proxy.host}/${repository}`,
      '--out',
      clip,
    );
    const fast = link.bytesPerSecond === 125e6;
    const memory: number[] = [];
    const plain = await measureStarts(ctx, image, scratch, clip, proxy, {
      after: async (host) => void (fast && memory.push(await memoryOf(host))),
    });
    const ready = median(plain.map((r) => r.ready));
    const bytes = median(plain.map((r) => r.bytes)) / 1e6;
    const name = `${link.name}, no profile`;
    rows.push(
      fast
        ? bounded(`${name}: ready`, ready, 's', { atMost: 2 })
        : { metric: `${name}: ready`, value: ready, unit: 's', ratio: { value: ready / floor, to: 'floor' } },
      { metric: `${name}: mounted`, value: median(plain.map((r) => r.mounted)), unit: 's' },
      bounded(`${name}: fetched`, bytes, 'MB', { atMost: 60 }),
      { metric: `${name}: requests`, value: median(plain.map((r) => r.requests)), unit: '' },
    );
    if (fast) {
      const note = 'server, keeper and server in reserve';
      rows.push(bounded('memory after it, PSS', median(memory) / 1e6, 'MB', { atMost: 120 }, note));
    }

    const optimized = path.join(scratch, 'optimized.clip');
    const made = await indexer.run([
      ...['optimize', '--image', image.reference, '--storage-image', `${proxy.host}/${repository}`],
      ...['--out', optimized, '--', ...WORKLOAD],
    ]);
    if (made.code !== 0) {
      ctx.log(`optimize: ${made.stderr.trim().split('\n')[0]}`);
      rows.push({
        metric: `${link.name}, profile: ready`,
        value: Number.NaN,
        unit: 's',
        target: '≤ 1.25 × floor',
        ok: false,
      });
      continue;
    }
    const shaped = await measureStarts(ctx, image, scratch, optimized, proxy);
    const best = median(shaped.map((r) => r.ready));
    const fetched = median(shaped.map((r) => r.bytes));
    rows.push(
      rated(`${link.name}, profile: ready`, best, 's', { value: best / floor, to: 'floor' }, { atMost: 1.25 }),
      { metric: `${link.name}, profile: mounted`, value: median(shaped.map((r) => r.mounted)), unit: 's' },
      rated(
        `${link.name}, profile: fetched`,
        fetched / 1e6,
        'MB',
        { value: fetched / needed, to: 'its bytes' },
        { atMost: 1.15 },
      ),
      { metric: `${link.name}, profile: requests`, value: median(shaped.map((r) => r.requests)), unit: '' },
    );
    // Other systems' daemons are measured so too: they run before the first image is mounted.
    const running = median(
      (await measureStarts(ctx, image, scratch, optimized, proxy, { other: clip })).map((r) => r.ready),
    );
    const metric = `${link.name}, profile, clipd running: ready`;
    rows.push({ metric, value: running, unit: 's', ratio: { value: running / floor, to: 'floor' } });
  }
  rows.push(...(await warmSharedCache(ctx, image, scratch, WORKLOAD, RTT_MS)));
  const title = `py, ${(image.compressedBytes / 1e6).toFixed(0)} MB, import numpy, scipy, pandas; ${RTT_MS} ms round trip`;
  return { title, rows };
}
