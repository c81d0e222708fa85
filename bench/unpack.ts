import { rm } from 'node:fs/promises';
import path from 'node:path';
import { Clipctl } from '../test/support/clipctl.js';
import { seconds } from './run.js';
import { type BenchContext, median, rated, run as runOk, type SuiteResult } from './support.js';

const ROUNDS = 5;
/** skopeo and umoci take half a minute a round. */
const OTHER_ROUNDS = 5;

/** A whole image as a directory: `clipctl unpack` beside what others need two programs for, all on this disk. */
export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const image = await ctx.python();
  const scratch = await ctx.scratch();
  await runOk('scripts/debian-packages.sh', ['skopeo', 'umoci']);
  const clip = await Clipctl.create({ parent: scratch });
  ctx.defer(() => clip.close());
  await clip.ok('inspect', '--image', image.reference);
  const directory = path.join(scratch, 'unpacked');
  const own: number[] = [];
  const others: number[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    own.push((await clip.ok('unpack', '--image', image.reference, directory)).seconds);
    await rm(directory, { recursive: true });
    if (i >= OTHER_ROUNDS) continue;
    const layout = path.join(scratch, 'copy');
    const from = `docker://${image.reference}`;
    const copied = await runOk('skopeo', ['copy', '-q', '--src-tls-verify=false', from, `oci:${layout}:py`]);
    const opened = await runOk('umoci', ['unpack', '--image', `${layout}:py`, `${layout}-bundle`]);
    others.push(copied.seconds + opened.seconds);
    await Promise.all([layout, `${layout}-bundle`].map((one) => rm(one, { recursive: true })));
  }
  const oneCore = await seconds(ROUNDS, () => runOk('sh', ['-c', `gzip -dc '${image.layers[0]}' > /dev/null`]));
  const time = median(own);
  const other = median(others);
  return {
    title: `${image.reference.split('/')[1]}, ${(image.compressedBytes / 1e6).toFixed(0)} MB, to a directory`,
    rows: [
      { metric: 'skopeo copy + umoci unpack', value: other, unit: 's' },
      { metric: 'gzip -dc > /dev/null, one core', value: oneCore, unit: 's' },
      rated('clipctl unpack', time, 's', { value: other / time, to: 'skopeo + umoci' }, { atLeast: 2.5 }),
      rated('clipctl unpack', time, 's', { value: oneCore / time, to: 'gzip -dc' }, { atLeast: 1.7 }),
    ],
  };
}
