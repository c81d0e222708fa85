import path from 'node:path';
import { Clipctl } from '../test/support/clipctl.js';
import { spawnProxy } from '../test/support/proxy-process.js';
import { compressedBytes, localRun } from './floor.js';
import { measureStarts, ROUNDS } from './starts.js';
import { type BenchContext, bounded, median, type Row, rated, type SuiteResult } from './support.js';
import { inside, WORKLOADS, workloadImage } from './workloads.js';

/** What may be fetched beside twice the needed bytes. */
const SLACK_MB = 8;

/**
 * First starts of programs that nothing is known of: no profile, a default archive, an empty cache. clipd runs, and has another
 * image mounted. `--only` names workloads.
 */
export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const names = ctx.only ?? Object.keys(WORKLOADS);
  const unknown = names.filter((name) => !(name in WORKLOADS));
  if (unknown.length > 0) throw new Error(`no such workload: ${unknown.join(', ')}`);
  const scratch = await ctx.scratch();
  const indexer = await Clipctl.create({ parent: scratch });
  ctx.defer(() => indexer.close());
  const { bytesPerSecond, roundTripMs } = ctx.link;
  const rows: Row[] = [];
  const ratios: number[] = [];
  for (const name of names) {
    const workload = WORKLOADS[name]!;
    const image = await workloadImage(ctx, name);
    const upstream = `http://${image.reference.split('/')[0]}`;
    const proxy = await spawnProxy({ upstream, latencyMs: roundTripMs, bytesPerSecond });
    ctx.defer(() => proxy.stop());

    const clip = path.join(scratch, `${name}.clip`);
    const fine = path.join(scratch, `${name}-fine.clip`);
    const other = path.join(scratch, `${name}-other.clip`);
    const storage = `${proxy.host}/${image.reference.split(/\/(.*)/)[1]}`;
    await indexer.ok('index', '--image', image.reference, '--storage-image', storage, '--out', clip);
    await indexer.ok('index', '--image', image.reference, '--out', fine, '--checkpoint', '1');
    await indexer.ok('index', '--image', image.reference, '--out', other, '--checkpoint', '4');

    const local = await localRun(image.rootfs, workload.command, ROUNDS, (root) => inside(root, workload));
    const own = Math.min(...local.seconds);
    const needed = compressedBytes(fine, local.touched).pages;
    const floor = (3 * roundTripMs) / 1000 + needed / bytesPerSecond + own;
    const program = (root: string): [string, readonly string[]] => inside(root, workload);
    const starts = await measureStarts(ctx, image, scratch, clip, proxy, { other, program });
    const ready = median(starts.map((start) => start.ready));
    const fetched = median(starts.map((start) => start.bytes)) / 1e6;
    const most = (2 * needed) / 1e6 + SLACK_MB;
    ratios.push(ready / floor);
    rows.push(
      rated(`${name}: ready`, ready, 's', { value: ready / floor, to: 'floor' }, { atMost: 2 }),
      { metric: `${name}: floor`, value: floor, unit: 's', note: `${own.toFixed(3)} s its own time` },
      bounded(`${name}: fetched`, fetched, 'MB', { atMost: Number(most.toFixed(1)) }),
      { metric: `${name}: needed`, value: needed / 1e6, unit: 'MB' },
      { metric: `${name}: requests`, value: median(starts.map((start) => start.requests)), unit: '' },
    );
  }
  rows.push(bounded('median of ready ÷ floor', median(ratios), '×', { atMost: 1.5 }));
  const link = `${(bytesPerSecond * 8) / 1e6} Mbit/s, ${roundTripMs} ms`;
  return { title: `first starts, nothing recorded, clipd running; three layers each; ${link}`, rows };
}
