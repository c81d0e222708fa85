import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Clipctl, PROGRAM } from '../test/support/clipctl.js';
import { spawnProxy } from '../test/support/proxy-process.js';
import { compressedBytes, localRun } from './floor.js';
import { coolDown, RTT_MS, settle, WORKLOAD } from './starts.js';
import {
  type BenchContext,
  type BenchImage,
  bounded,
  median,
  type Row,
  rated,
  run as runOk,
  type SuiteResult,
} from './support.js';

/** Starts take a tenth of a second each: more of them cost little and steady the median. */
const SHORT_ROUNDS = 9;
/** Cold starts, each with a clipd and a cache of its own. */
const ROUNDS = 5;
const GIGABIT = 125e6;

/** The median of so many runs. */
export async function seconds(rounds: number, once: (i: number) => Promise<{ seconds: number }>): Promise<number> {
  const all: number[] = [];
  for (let i = 0; i < rounds; i++) all.push((await once(i)).seconds);
  return median(all);
}

/** Containers by `clipctl run` beside those of podman, by the same runc; a start on a node that never saw the image. `--only local`, `--only cold`. */
export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const image = await ctx.python();
  const scratch = await ctx.scratch();
  const isAsked = (part: string): boolean => ctx.only?.includes(part) ?? true;
  await runOk('scripts/debian-packages.sh', ['podman', 'runc']);
  const clip = await Clipctl.create({ parent: scratch });
  ctx.defer(() => clip.close());
  const unpacked = path.join(scratch, 'unpacked');
  await clip.ok('unpack', '--image', image.reference, unpacked);
  const rows = [
    ...(isAsked('local') ? await everythingLocal(ctx, clip, image, scratch, unpacked) : []),
    ...(isAsked('cold') ? await coldStart(ctx, image, scratch, unpacked) : []),
  ];
  return { title: `containers of ${image.reference.split('/')[1]}, runc`, rows };
}

/** The image pulled by podman; indexed, mounted and cached by clip. */
async function everythingLocal(
  ctx: BenchContext,
  clip: Clipctl,
  image: BenchImage,
  scratch: string,
  unpacked: string,
): Promise<Row[]> {
  const rows: Row[] = [];
  const storage = path.join(scratch, 'podman');
  const podman = ['--root', storage, '--runroot', path.join(scratch, 'podman-run'), '--runtime', '/usr/sbin/runc'];
  const global = [...podman, '--cgroup-manager', 'cgroupfs', '--events-backend', 'none'];
  const limits = ['--ulimit', 'nofile=1024:4096', '--ulimit', 'nproc=4096:4096'];
  const pulled = await runOk('podman', [...global, 'pull', '-q', `oci:${image.layout}:py`]);
  const id = pulled.stdout.trim();
  ctx.defer(async () => {
    await runOk('podman', [...global, 'rmi', '-f', id]);
  });
  const podmanRun = (): Promise<{ seconds: number }> =>
    runOk('podman', [...global, 'run', '--rm', ...limits, '--network', 'host', id, '/bin/true']);
  const clipRun = (...command: string[]): Promise<{ seconds: number }> =>
    runOk(PROGRAM, ['run', '--rm', image.reference, ...command], { env: clip.env }); // as a shell starts it
  // A container that stays keeps clipd, and the image's mount, as a node has them that runs some.
  await clip.ok('run', '-d', '--name', 'stays', image.reference, '/bin/sleep', '100000');
  ctx.defer(async () => {
    await clip.run(['umount', '--cid', 'stays', '--force']);
  });
  for (let i = 0; i < 2; i++) {
    await podmanRun();
    await clipRun('/bin/true');
  }
  const other = await seconds(SHORT_ROUNDS, podmanRun);
  const own = await seconds(SHORT_ROUNDS, () => clipRun('/bin/true'));
  rows.push({ metric: 'podman run --rm IMG true, pulled', value: other * 1000, unit: 'ms' });
  rows.push(
    rated(
      'clipctl run --rm IMG true, indexed and cached',
      own * 1000,
      'ms',
      { value: own / other, to: 'podman run' },
      { atMost: 0.6 },
    ),
  );

  // What clip adds to the runtime's own time: a bundle with an unpacked root beside a whole run.
  const bundle = path.join(scratch, 'bundle');
  const spec = await bareBundle(clip, image.reference, bundle, unpacked);
  const bare = await seconds(SHORT_ROUNDS, (i) =>
    runOk('runc', ['run', '--bundle', spec, `clip-bench-${process.pid}-${i}`]),
  );
  rows.push({ metric: 'runc run, unpacked root: true', value: bare * 1000, unit: 'ms' });
  const inner = await seconds(SHORT_ROUNDS, async () => {
    const ran = await clip.run(['run', '--rm', '--stats', image.reference, '/bin/true']);
    return { seconds: Number(/first exec after (\d+) ms/.exec(ran.stderr)?.[1] ?? Number.NaN) / 1000 };
  });
  rows.push(bounded('warm index: first instruction, beyond runc', (inner - bare) * 1000, 'ms', { atMost: 120 }));

  return rows;
}

/** A bundle whose root is the unpacked image, for the runtime's own time. */
async function bareBundle(clip: Clipctl, reference: string, bundle: string, rootfs: string): Promise<string> {
  await clip.ok('mount', '--image', reference, '--cid', 'spec', '--', '/bin/true');
  const spec = JSON.parse(await readFile(clip.path('root/spec/config.json'), 'utf8')) as Record<string, unknown>;
  await clip.ok('umount', '--cid', 'spec');
  spec.root = { path: rootfs, readonly: false };
  spec.mounts = (spec.mounts as { destination: string }[]).filter(
    ({ destination }) => !destination.startsWith('/etc/'),
  );
  await mkdir(bundle);
  await writeFile(path.join(bundle, 'config.json'), JSON.stringify(spec));
  return bundle;
}

async function coldStart(ctx: BenchContext, image: BenchImage, scratch: string, rootfs: string): Promise<Row[]> {
  const local = await localRun(rootfs, WORKLOAD, ROUNDS);
  const [, repository] = image.reference.split(/\/(.*)/);
  const upstream = `http://${image.reference.split('/')[0]}`;
  const proxy = await spawnProxy({ upstream, latencyMs: RTT_MS, bytesPerSecond: GIGABIT });
  ctx.defer(() => proxy.stop());
  const indexer = await Clipctl.create({ parent: scratch });
  ctx.defer(() => indexer.close());
  const archive = path.join(scratch, 'optimized.clip');
  await indexer.ok(
    ...['optimize', '--image', image.reference, '--storage-image', `${proxy.host}/${repository}`],
    ...['--out', archive, '--', ...WORKLOAD],
  );
  const needed = compressedBytes(archive, local.touched).pages;
  const floor = (3 * RTT_MS) / 1000 + needed / GIGABIT + Math.min(...local.seconds);
  const starts = { alone: [] as number[], running: [] as number[] };
  const other = path.join(scratch, 'plain.clip');
  await indexer.ok('index', image.reference, '--storage-image', `${proxy.host}/${repository}`, '--out', other);
  for (let i = 0; i < ROUNDS; i++) {
    for (const kind of ['alone', 'running'] as const) {
      const node = await Clipctl.create({ parent: scratch });
      try {
        if (kind === 'running') await settle(node, other);
        await coolDown(image);
        starts[kind].push((await node.ok('run', '--rm', '--clip', archive, ...WORKLOAD)).firstOutput);
      } finally {
        await node.close();
      }
    }
  }
  const row = (metric: string, start: number): Row =>
    rated(metric, start, 's', { value: start / floor, to: 'floor' }, { atMost: 1.35 });
  return [
    { metric: '1 Gbit/s, 20 ms: floor', value: floor, unit: 's' },
    row('never seen here, with a profile: prints', median(starts.running)),
    row("the same, with clipd's start", median(starts.alone)),
  ];
}
