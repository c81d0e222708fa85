/**
 * Mounting on the kernel plane: the request to a clipd that runs, with few and with many files, and cold starts beside the FUSE plane's.
 * `--only` takes some of PARTS.
 */
import { copyFileSync } from 'node:fs';
import path from 'node:path';
import { ClipdClient, prepareMount } from '../src/client/index.js';
import { Clipctl } from '../test/support/clipctl.js';
import { type ProxyProcess, spawnProxy } from '../test/support/proxy-process.js';
import { MANY_FILES, manyFilesLayout } from './images.js';
import { measureStarts, RTT_MS, type Start, WORKLOAD } from './starts.js';
import {
  type BenchContext,
  type BenchImage,
  bounded,
  chosen,
  median,
  type Row,
  rated,
  type SuiteResult,
  timed,
} from './support.js';

const MOUNTS = 15;
const BYTES_PER_SECOND = 125e6;
const PARTS = ['requests', 'million', 'profile', 'plain'] as const;

export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const image = await ctx.python();
  const scratch = await ctx.scratch();
  const clip = await Clipctl.create({ parent: scratch });
  ctx.defer(() => clip.close());
  const archive = clip.path('py.clip');
  await clip.ok('index', '--image', image.reference, '--plain-http', '--out', archive);
  const parts = chosen(ctx, PARTS);
  const rows: Row[] = [];
  if (parts.includes('requests')) rows.push(...(await requests(ctx, clip, archive, '39,500 entries', 40)));
  if (parts.includes('million')) {
    const many = clip.path('many.clip');
    ctx.log('indexing a million files');
    await clip.ok('index', '--image', `oci:${await manyFilesLayout(ctx)}:many`, '--out', many);
    rows.push(...(await requests(ctx, clip, many, `${MANY_FILES.toLocaleString('en-US')} files`, 200)));
  }
  await clip.stop();

  const upstream = `http://${image.reference.split('/')[0]}`;
  const proxy = await spawnProxy({ upstream, latencyMs: RTT_MS, bytesPerSecond: BYTES_PER_SECOND });
  ctx.defer(() => proxy.stop());
  const [, repository] = image.reference.split(/\/(.*)/);
  const elsewhere = ['--image', image.reference, '--storage-image', `${proxy.host}/${repository}`];
  for (const part of parts) {
    if (part !== 'profile' && part !== 'plain') continue;
    const through = clip.path(`${part}.clip`);
    if (part === 'profile') await clip.ok('optimize', ...elsewhere, '--out', through, '--', ...WORKLOAD);
    else await clip.ok('index', ...elsewhere, '--out', through);
    rows.push(
      ...(await starts(ctx, image, scratch, through, proxy, part === 'profile' ? 'with a profile' : 'no profile')),
    );
  }
  return { title: `mounting on the kernel plane; ${RTT_MS} ms round trip`, rows };
}

/** Cold starts on both planes, one after the other: other work of the machine affects both alike. */
async function starts(
  ctx: BenchContext,
  image: BenchImage,
  scratch: string,
  archive: string,
  proxy: ProxyProcess,
  how: string,
): Promise<Row[]> {
  const found: Record<'fuse' | 'kernel', Start[]> = { fuse: [], kernel: [] };
  for (const plane of ['fuse', 'kernel', 'kernel', 'fuse'] as const) {
    ctx.log(`cold starts, ${how}: ${plane}`);
    found[plane].push(...(await measureStarts(ctx, image, scratch, archive, proxy, { flags: ['--plane', plane] })));
  }
  const of = (plane: 'fuse' | 'kernel', key: keyof Start): number => median(found[plane].map((start) => start[key]));
  const [fuse, kernel] = [of('fuse', 'ready'), of('kernel', 'ready')];
  const name = (plane: string): string => `cold start, ${how}, 1 Gbit/s, ${plane} plane`;
  const against = { value: kernel / fuse, to: 'FUSE' };
  return [
    { metric: name('FUSE'), value: fuse, unit: 's' },
    rated(name('kernel'), kernel, 's', against, { atMost: 1.05 }),
    { metric: `${name('FUSE')}: mounted`, value: of('fuse', 'mounted'), unit: 's' },
    { metric: `${name('kernel')}: mounted`, value: of('kernel', 'mounted'), unit: 's' },
    { metric: `${name('FUSE')}: fetched`, value: of('fuse', 'bytes') / 1e6, unit: 'MB' },
    { metric: `${name('kernel')}: fetched`, value: of('kernel', 'bytes') / 1e6, unit: 'MB' },
  ];
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
