/**
 * The kernel plane against an ext4 directory of the same files, as `clipctl mount --plane kernel` makes it. All spans are in the cache, so
 * nothing is fetched. "incomplete": the kernel reads the layers through clipd. "complete": it reads the cache's own files. Rounds
 * take all contenders in turn, so that other work of the machine affects them alike. `--only` takes some of PARTS.
 */
import { mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import type { MountInfoReply } from '../src/wire/index.js';
import { Clipctl } from '../test/support/clipctl.js';
import { findLs, type Probe, probeTools, shuffled, walk } from './file-systems.js';
import {
  type BenchContext,
  chosen,
  dropCaches,
  median,
  type Row,
  rated,
  run as runProgram,
  type SuiteResult,
} from './support.js';

const ROUNDS = 3;
const WORKLOAD = ['python3', '-c', 'import numpy, scipy, pandas'];
/** Files that are read at random, and whole. */
const LARGE = 4 << 20;
const RANDOM_READS = 20_000;
const PLACES = 20;
const PARTS = ['incomplete', 'complete'] as const;

interface Contender {
  readonly name: string;
  readonly directory: string;
}

type Samples = Map<string, number[]>;

/** Page cache of the whole machine, in bytes. */
function pageCache(): number {
  return Number(/^Cached:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1]) * 1024;
}

async function rounds(
  contenders: readonly Contender[],
  sample: (directory: string) => Promise<Readonly<Record<string, number>>>,
): Promise<Map<string, Samples>> {
  const out = new Map<string, Samples>();
  for (let round = 0; round < ROUNDS; round++) {
    for (const { name, directory } of contenders) {
      for (const [metric, value] of Object.entries(await sample(directory))) {
        const samples: Samples = out.get(metric) ?? new Map();
        out.set(metric, samples);
        samples.set(name, [...(samples.get(name) ?? []), value]);
      }
    }
  }
  return out;
}

/** A contender's median, and the median of its rounds' ratios to ext4. */
function against(
  samples: Samples,
  name: string,
  metric: string,
  unit: string,
  bound: { atLeast: number } | { atMost: number },
): Row {
  const [ours, theirs] = [samples.get(name)!, samples.get('ext4')!];
  const ratio = { value: median(ours.map((value, i) => value / theirs[i]!)), to: 'ext4' };
  return rated(`${name}: ${metric}`, median(ours), unit, ratio, bound);
}

async function planeOf(clip: Clipctl, place: string): Promise<MountInfoReply['plane']> {
  return (await clip.json<MountInfoReply[]>('ps')).find(({ mountPoint }) => mountPoint === place)!.plane;
}

/** Fetches all of an image, and waits until the kernel may read its layers by itself at the next mount. */
async function fetchAll(clip: Clipctl, place: string): Promise<void> {
  await clip.ok('prefetch', place, '--wait');
  const spans = clip.path('cache', 'spans');
  const isSealed = (name: string): boolean => (statSync(path.join(spans, name)).mode & 0o200) === 0;
  while (!readdirSync(spans).some((name) => !name.endsWith('.table') && isSealed(name))) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** All spans in the cache, and mounted: through clipd, or from the cache's files. */
async function mountLocal(clip: Clipctl, archive: string, name: string, complete: boolean): Promise<Contender> {
  const directory = await clip.place(name);
  await clip.ok('mount', '--clip', archive, '--at', directory, '--plane', 'kernel', '--no-readahead');
  await fetchAll(clip, directory);
  const { kind, files } = await planeOf(clip, directory);
  if (kind !== 'kernel' || files.length > 0 !== complete) {
    throw new Error(`${name} is served by ${kind}, ${files.length} layers from the cache's files`);
  }
  return { name, directory };
}

export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const image = await ctx.python();
  const scratch = await ctx.scratch();
  const probe = await probeTools(scratch);
  const tree = path.join(scratch, 'tree');
  mkdirSync(tree);
  ctx.log('unpacking the image on ext4');
  await runProgram('tar', ['-xf', image.tars[0]!, '-C', tree]);
  const ext4 = { name: 'ext4', directory: tree };
  const clip = await Clipctl.create({ parent: scratch });
  ctx.defer(() => clip.close());
  const archive = clip.path('py.clip');
  await clip.ok('index', '--image', image.reference, '--plain-http', '--out', archive);
  const large = walk(tree).filter((entry) => entry.size >= LARGE);
  const rows: Row[] = [];

  for (const part of chosen(ctx, PARTS)) {
    const complete = part === 'complete';
    ctx.log(`all spans local, read ${complete ? 'from the cache’s files' : 'through clipd'}`);
    // A layer is read through clipd by the mount that has fetched it.
    if (complete && ctx.only !== null)
      await clip.ok('umount', (await mountLocal(clip, archive, 'first', false)).directory);
    const contender = await mountLocal(clip, archive, part, complete);
    await runProgram('sync', []);
    rows.push(...(await compareWith(ctx, [contender, ext4], large, probe, { python: complete ? 1 : 1.12 })));
    rows.push(...(await memory(ctx, clip, contender, ext4, large)));
    await clip.ok('umount', contender.directory);
  }
  await clip.stop();
  return { title: `the kernel plane, ${path.basename(image.reference)}, ${ROUNDS} rounds`, rows };
}

async function compareWith(
  ctx: BenchContext,
  contenders: readonly Contender[],
  large: readonly { readonly path: string; readonly size: number }[],
  probe: Probe,
  atMost: { readonly python: number },
): Promise<Row[]> {
  const { name } = contenders[0]!;
  const biggest = large.reduce((a, b) => (b.size > a.size ? b : a));
  const names = shuffled(large.map((entry) => entry.path));
  ctx.log(`${name}: find -ls, Python, the largest file, random reads`);
  const samples = await rounds(contenders, async (directory) => {
    dropCaches();
    // find(1) itself and its libraries come from the same disk as ext4's tree.
    await findLs('/proc/self/attr');
    const [findCold, findWarm] = [await findLs(directory), await findLs(directory)];
    dropCaches();
    await runProgram('chroot', ['/', 'true']);
    const python = async (): Promise<number> => (await runProgram('chroot', [directory, ...WORKLOAD])).seconds;
    const [pythonCold, pythonWarm] = [await python(), await python()];
    dropCaches();
    const [whole] = await probe('sequential', directory, [biggest.path]);
    // The second run finds its pages.
    await probe('random', directory, names, '1', String(RANDOM_READS));
    const [random] = await probe('random', directory, names, '1', String(RANDOM_READS));
    return { findCold, findWarm, pythonCold, pythonWarm, whole: whole!, random: RANDOM_READS / random! };
  });
  const row = (key: string, metric: string, unit: string, bound: { atLeast: number } | { atMost: number }): Row =>
    against(samples.get(key)!, name, metric, unit, bound);
  const megabytes = Math.round(biggest.size / 1e6);
  return [
    row('findCold', 'find -ls, whole tree, caches dropped', 's', { atMost: 0.6 }),
    row('findWarm', 'find -ls, whole tree, warm', 's', { atMost: 1 }),
    row('pythonCold', 'import numpy, scipy, pandas, caches dropped', 's', { atMost: atMost.python }),
    row('pythonWarm', 'import numpy, scipy, pandas, warm', 's', { atMost: 1.02 }),
    row('whole', `the largest file (${megabytes} MB), caches dropped`, 's', { atMost: 1.05 }),
    row('random', 'random 4 KiB reads, warm', '/s', { atLeast: 0.95 }),
  ];
}

/** What the page cache holds after the large files were read, and after the workload ran at many places. */
async function memory(
  ctx: BenchContext,
  clip: Clipctl,
  contender: Contender,
  ext4: Contender,
  large: readonly { readonly path: string; readonly size: number }[],
): Promise<Row[]> {
  ctx.log(`${contender.name}: page cache`);
  const bytes = large.reduce((sum, entry) => sum + entry.size, 0);
  const held: number[] = [];
  for (const { directory } of [contender, ext4]) {
    dropCaches();
    const before = pageCache();
    await runProgram('sh', [
      '-c',
      `cat ${large.map((entry) => path.join(directory, entry.path)).join(' ')} > /dev/null`,
    ]);
    held.push(pageCache() - before);
  }
  const places: string[] = [];
  for (let i = 0; i < PLACES; i++) {
    const args = ['mount', '--clip', clip.path('py.clip'), '--cid', `c${i}`, '--plane', 'kernel', '--', 'true'];
    places.push((await clip.ok(...args)).stdout.trim());
  }
  dropCaches();
  const before = pageCache();
  const after: number[] = [];
  for (const place of places) {
    await runProgram('chroot', [place, ...WORKLOAD]);
    after.push(pageCache() - before);
  }
  for (let i = 0; i < PLACES; i++) await clip.ok('umount', '--cid', `c${i}`);
  return [
    {
      metric: `${contender.name}: page cache after reading ${Math.round(bytes / 1e6)} MB`,
      value: held[0]! / 1e6,
      unit: 'MB',
      ratio: { value: held[0]! / held[1]!, to: 'ext4' },
    },
    rated(
      `${contender.name}: page cache of ${PLACES} containers`,
      after.at(-1)! / 1e6,
      'MB',
      { value: after.at(-1)! / after[0]!, to: "one's" },
      { atMost: 1.1 },
    ),
  ];
}
