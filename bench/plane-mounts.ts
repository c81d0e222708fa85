/** Mounting on the kernel plane: the request to a clipd that runs, with few and with many files, and cold starts beside the FUSE plane's. */
import { copyFileSync } from 'node:fs';
import path from 'node:path';
import { ClipdClient, prepareMount } from '../src/client/index.js';
import { Clipctl } from '../test/support/clipctl.js';
import { spawnProxy } from '../test/support/proxy-process.js';
import { MANY_FILES, manyFilesLayout } from './images.js';
import { measureStarts, RTT_MS, WORKLOAD } from './starts.js';
import { type BenchContext, bounded, median, type Row, rated, type SuiteResult, timed } from './support.js';

const MOUNTS = 15;
const BYTES_PER_SECOND = 125e6;

export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const image = await ctx.python();
  const scratch = await ctx.scratch();
  const clip = await Clipctl.create({ parent: scratch });
  ctx.defer(() => clip.close());
  const archive = clip.path('py.clip');
  await clip.ok('index', '--image', image.reference, '--plain-http', '--out', archive);
  const many = clip.path('many.clip');
  ctx.log('indexing a million files');
  await clip.ok('index', '--image', `oci:${await manyFilesLayout(ctx)}:many`, '--out', many);
  const rows: Row[] = [
    ...(await requests(ctx, clip, archive, '39,500 entries', 40)),
    ...(await requests(ctx, clip, many, `${MANY_FILES.toLocaleString('en-US')} files`, 200)),
  ];
  await clip.stop();

  const upstream = `http://${image.reference.split('/')[0]}`;
  const proxy = await spawnProxy({ upstream, latencyMs: RTT_MS, bytesPerSecond: BYTES_PER_SECOND });
  ctx.defer(() => proxy.stop());
  const [, repository] = image.reference.split(/\/(.*)/);
  const elsewhere = ['--image', image.reference, '--storage-image', `${proxy.host}/${repository}`];
  const profiled = clip.path('profiled.clip');
  await clip.ok('optimize', ...elsewhere, '--out', profiled, '--', ...WORKLOAD);
  // One after the other in each round: other work of the machine affects both alike.
  const ready: Record<'fuse' | 'kernel', number[]> = { fuse: [], kernel: [] };
  for (const plane of ['fuse', 'kernel', 'kernel', 'fuse'] as const) {
    ctx.log(`cold starts with a profile: ${plane}`);
    const starts = await measureStarts(ctx, image, scratch, profiled, proxy, { flags: ['--plane', plane] });
    ready[plane].push(...starts.map((start) => start.ready));
  }
  const [fuse, kernel] = [median(ready.fuse), median(ready.kernel)];
  rows.push(
    { metric: 'cold start with a profile, 1 Gbit/s, FUSE plane', value: fuse, unit: 's' },
    rated(
      'cold start with a profile, 1 Gbit/s, kernel plane',
      kernel,
      's',
      { value: kernel / fuse, to: 'FUSE' },
      { atMost: 1 },
    ),
  );
  return { title: `mounting on the kernel plane; ${RTT_MS} ms round trip`, rows };
}

/** The first one has the tree written for the kernel. */
async function requests(
  ctx: BenchContext,
  clip: Clipctl,
  archivePath: string,
  size: string,
  atMost: number,
): Promise<Row[]> {
  ctx.log(`mount requests: ${size}`);
  const other = await clip.place('other');
  const running = clip.mounts().includes(other);
  if (!running) await clip.ok('mount', '--clip', clip.path('py.clip'), '--at', other, '--plane', 'fuse');
  const mountPoint = await clip.place(path.basename(archivePath, '.clip'));
  const client = new ClipdClient(clip.path('root'));
  const times: Record<'fuse' | 'kernel', number[]> = { fuse: [], kernel: [] };
  // The archive that holds clipd is mounted by another file of it.
  const copy = `${archivePath}.copy`;
  copyFileSync(archivePath, copy);
  for (let i = 0; i < MOUNTS; i++) {
    for (const plane of ['fuse', 'kernel'] as const) {
      const request = await prepareMount({ archivePath: copy, mountPoint, options: { plane } }, {});
      times[plane].push(...(await timed(1, async () => void (await client.mount(request)))));
      await client.unmount({ mountPoint, mode: 'normal' });
    }
  }
  const ms = (seconds: number): number => 1000 * seconds;
  return [
    { metric: `first mount ever, ${size}`, value: ms(times.kernel[0]!), unit: 'ms' },
    bounded(`mount request, ${size}`, ms(median(times.kernel.slice(1))), 'ms', { atMost }),
    { metric: `mount request, ${size}, FUSE plane`, value: ms(median(times.fuse.slice(1))), unit: 'ms' },
  ];
}
