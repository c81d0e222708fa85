import { stat } from 'node:fs/promises';
import path from 'node:path';
import { Clipctl } from '../test/support/clipctl.js';
import { spawnProxy } from '../test/support/proxy-process.js';
import { measureStarts, RTT_MS, type StartOptions } from './starts.js';
import { type BenchContext, median, type Row, type SuiteResult } from './support.js';

const MIB = ['1', '2', '4'];
const BYTES_PER_SECOND = 125e6;

/** The cost of `--checkpoint` in the archive, and its savings in a cold start without a profile. The default follows from this. */
export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const image = await ctx.python();
  const scratch = await ctx.scratch();
  const indexer = await Clipctl.create({ parent: scratch });
  ctx.defer(() => indexer.close());
  const [host, repository] = image.reference.split(/\/(.*)/);
  const proxy = await spawnProxy({ upstream: `http://${host}`, latencyMs: RTT_MS, bytesPerSecond: BYTES_PER_SECOND });
  ctx.defer(() => proxy.stop());
  const rows: Row[] = [];
  for (const mib of MIB) {
    const clip = path.join(scratch, `${mib}.clip`);
    const storage = `${proxy.host}/${repository}`;
    await indexer.ok(
      'index',
      '--image',
      image.reference,
      '--storage-image',
      storage,
      '--out',
      clip,
      '--checkpoint',
      mib,
    );
    const { size } = await stat(clip);
    rows.push({ metric: `${mib} MiB: archive`, value: size / 1e6, unit: 'MB' });
    const measure = async (name: string, options: StartOptions): Promise<void> => {
      const starts = await measureStarts(ctx, image, scratch, clip, proxy, options);
      rows.push(
        { metric: `${name}: ready`, value: median(starts.map((start) => start.ready)), unit: 's' },
        { metric: `${name}: fetched`, value: median(starts.map((start) => start.bytes)) / 1e6, unit: 'MB' },
        { metric: `${name}: requests`, value: median(starts.map((start) => start.requests)), unit: '' },
      );
    };
    await measure(`${mib} MiB`, {});
    await measure(`${mib} MiB, --no-prefetch`, { flags: ['--no-prefetch'] });
  }
  return { title: `py, import numpy, scipy, pandas without a profile; 1 Gbit/s, ${RTT_MS} ms round trip`, rows };
}
