import path from 'node:path';
import { Clipctl } from '../test/support/clipctl.js';
import { seconds } from './run.js';
import { type BenchContext, median, type Row, rated, run as runOk, type SuiteResult } from './support.js';

const ROUNDS = 3;

/**
 * A file system without a past, where nothing is removed until the end: ext4 passes over inodes that were removed in the last minutes
 * (fs/ext4/ialloc.c, recently_deleted), and looks at each of them for each new file. After the trees of another bench were removed,
 * 2.4 s became 6.
 */
async function freshDisk(ctx: BenchContext): Promise<string> {
  const directory = await ctx.scratch();
  const [image, place] = [path.join(directory, 'disk'), path.join(directory, 'place')];
  await runOk('truncate', ['-s', '24G', image]);
  await runOk('mkfs.ext4', ['-q', '-F', image]);
  await runOk('mkdir', [place]);
  await runOk('mount', ['-o', 'loop,noinit_itable', image, place]);
  ctx.defer(async () => void (await runOk('umount', [place])));
  return place;
}

/** A whole image as a directory: `clipctl unpack` beside what others need two programs for, all on this disk. `--only skopeo`, `--only gzip`. */
export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const image = await ctx.python();
  const scratch = await freshDisk(ctx);
  await runOk('scripts/debian-packages.sh', ['skopeo', 'umoci']);
  const clip = await Clipctl.create();
  ctx.defer(() => clip.close());
  await clip.ok('inspect', '--image', image.reference);
  // What was written before must not be on its way to the disk.
  const fresh = (): Promise<unknown> => runOk('sync', []);
  const own: number[] = [];
  const others: number[] = [];
  const isAsked = (part: string): boolean => ctx.only?.includes(part) ?? true;
  for (let i = 0; i < ROUNDS; i++) {
    await fresh();
    own.push((await clip.ok('unpack', '--image', image.reference, path.join(scratch, `unpacked-${i}`))).seconds);
  }
  for (let i = 0; isAsked('skopeo') && i < ROUNDS; i++) {
    await fresh();
    const layout = path.join(scratch, `copy-${i}`);
    const from = `docker://${image.reference}`;
    const copied = await runOk('skopeo', ['copy', '-q', '--src-tls-verify=false', from, `oci:${layout}:py`]);
    const opened = await runOk('umoci', ['unpack', '--image', `${layout}:py`, `${layout}-bundle`]);
    others.push(copied.seconds + opened.seconds);
  }
  const time = median(own);
  const rows: Row[] = [];
  if (isAsked('skopeo')) {
    const other = median(others);
    rows.push({ metric: 'skopeo copy + umoci unpack', value: other, unit: 's' });
    rows.push(rated('clipctl unpack', time, 's', { value: other / time, to: 'skopeo + umoci' }, { atLeast: 2.5 }));
  }
  if (isAsked('gzip')) {
    const oneCore = await seconds(ROUNDS, () => runOk('sh', ['-c', `gzip -dc '${image.layers[0]}' > /dev/null`]));
    rows.push({ metric: 'gzip -dc > /dev/null, one core', value: oneCore, unit: 's' });
    rows.push(rated('clipctl unpack', time, 's', { value: oneCore / time, to: 'gzip -dc' }, { atLeast: 1.7 }));
  }
  const megabytes = (image.compressedBytes / 1e6).toFixed(0);
  return { title: `${image.reference.split('/')[1]}, ${megabytes} MB, to a directory`, rows };
}
