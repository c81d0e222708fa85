// Mounting: time to the first answer, memory, and the leftovers of a loop of mounts.
import { readdirSync, readFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { ClipdClient, type MountOptions, mountArchive, prepareMount } from '../src/client/index.js';
import { Clipctl } from '../test/support/clipctl.js';
import { writeImage } from '../test/support/images.js';
import { file, tar } from '../test/support/tar.js';
import { type BenchContext, bounded, median, type Row, type SuiteResult, timed } from './support.js';

const PLACES = 50;
const LOOPS = 200;

/** Descriptors, threads and resident bytes of a process. */
function footprint(pid: number): { fds: number; threads: number; rss: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0);
  return { fds: readdirSync(`/proc/${pid}/fd`).length, threads: field('Threads'), rss: field('VmRSS') * 1024 };
}

/** An archive of 4,000 small files, different from all others. */
async function smallArchive(clip: Clipctl, index: number): Promise<string> {
  const files = Array.from({ length: 4000 }, (_, i) => file(`d${index}/f${i}`, `${index} ${i}`));
  const image = writeImage([tar(...files)]);
  try {
    const archive = clip.path(`small-${index}.clip`);
    await clip.ok('index', '--image', image.reference, '--out', archive);
    return archive;
  } finally {
    image.remove();
  }
}

const msOf = (seconds: readonly number[]): number => median(seconds) * 1000;

function clientOf(clip: Clipctl): {
  client: ClipdClient;
  mount(options: MountOptions): Promise<void>;
  unmount(mountPoint: string): Promise<void>;
} {
  const client = new ClipdClient(clip.path('root'));
  return {
    client,
    mount: async (options) => {
      await client.mount(await prepareMount(options, {}));
      await stat(options.mountPoint);
    },
    unmount: async (mountPoint) => void (await client.unmount({ mountPoint, mode: 'normal' })),
  };
}

export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const python = await ctx.python();
  const clip = await Clipctl.create({ parent: await ctx.scratch() });
  ctx.defer(() => clip.close());
  const archive = clip.path('py.clip');
  await clip.ok('index', '--image', python.reference, '--plain-http', '--out', archive);
  const rows: Row[] = [];
  rows.push(...(await times(ctx, clip, archive)));
  rows.push(...(await memory(ctx, clip, archive)));
  return { title: 'benchmark image, 39,500 entries', rows };
}

async function times(ctx: BenchContext, clip: Clipctl, archivePath: string): Promise<Row[]> {
  const mountPoint = await clip.place('times');
  ctx.log('clipctl mount, with and without a clipd that runs');
  const cold: number[] = [];
  const warm: number[] = [];
  for (let i = 0; i < 5; i++) {
    cold.push((await clip.ok('mount', '--clip', archivePath, '--at', mountPoint)).seconds);
    await clip.ok('umount', mountPoint);
    warm.push((await clip.ok('mount', '--clip', archivePath, '--at', mountPoint)).seconds);
    await clip.ok('umount', mountPoint);
    await clip.stop();
  }

  ctx.log('mountArchive(), with and without a server that runs');
  const cachePath = clip.path('library-cache');
  const starts: number[] = [];
  const attached: number[] = [];
  const other = await clip.place('other');
  const small = await smallArchive(clip, 0);
  for (let i = 0; i < 5; i++) {
    const first = mountArchive({ archivePath, mountPoint, cachePath });
    starts.push(...(await timed(1, () => first.start())));
    await first.unmount();
    // A server that runs already, for another image.
    const keeping = mountArchive({ archivePath: small, mountPoint: other, cachePath });
    await keeping.start();
    const second = mountArchive({ archivePath, mountPoint, cachePath });
    attached.push(...(await timed(1, () => second.start())));
    await second.unmount();
    await keeping.unmount();
  }

  ctx.log('a mount request to a clipd that runs');
  await clip.ok('mount', '--clip', small, '--at', other);
  const { mount, unmount, client } = clientOf(clip);
  const requests: number[] = [];
  for (let i = 0; i < 20; i++) {
    const request = await prepareMount({ archivePath, mountPoint }, {});
    requests.push(...(await timed(1, async () => void (await client.mount(request)))));
    await unmount(mountPoint);
  }
  await mount({ archivePath, mountPoint });

  ctx.log('recovery after SIGKILL');
  const recoveries: number[] = [];
  for (let i = 0; i < 15; i++) {
    const { serverPid } = await client.health();
    await new Promise((resolve) => setTimeout(resolve, 700));
    process.kill(serverPid, 'SIGKILL');
    recoveries.push(
      ...(await timed(1, async () => void (await stat(path.join(mountPoint, `none-${i}`)).catch(() => null)))),
    );
  }
  await clip.stop();
  return [
    bounded('mount request, clipd runs', msOf(requests), 'ms', { atMost: 60 }, 'new connection, 39,500 entries'),
    bounded('mountArchive() to first answer, server up', msOf(attached), 'ms', { atMost: 150 }),
    bounded('mountArchive() to first answer, with its start', msOf(starts), 'ms', { atMost: 450 }),
    { metric: 'clipctl mount, clipd runs', value: msOf(warm), unit: 'ms' },
    { metric: 'clipctl mount, with start of clipd', value: msOf(cold), unit: 'ms' },
    bounded('recovery after SIGKILL', msOf(recoveries), 'ms', { atMost: 400 }, 'from the kill to the next answer'),
  ];
}

async function memory(ctx: BenchContext, clip: Clipctl, archivePath: string): Promise<Row[]> {
  const rows: Row[] = [];
  const { client, mount, unmount } = clientOf(clip);
  const settle = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 3000));

  const measure = async (what: string): Promise<void> => {
    await settle();
    const stats = await client.stats();
    const trees = stats.connections.reduce((sum, connection) => sum + connection.treeBytes, 0) / 1e6;
    const limit = 130 + 1.2 * trees;
    rows.push(
      bounded(
        `server, ${what}`,
        stats.memory.serverRss / 1e6,
        'MB',
        { atMost: Math.round(limit) },
        `trees ${trees.toFixed(1)} MB`,
      ),
      bounded(`keeper, ${what}`, stats.memory.keeperRss / 1e6, 'MB', { atMost: 55 }),
      { metric: `server in reserve, ${what}`, value: stats.memory.standbyRss / 1e6, unit: 'MB' },
    );
  };

  ctx.log(`${PLACES} places of one image`);
  for (let i = 0; i < PLACES; i++) {
    const mountPoint = await clip.place(`place-${i}`);
    if (i === 0) await clip.ok('mount', '--clip', archivePath, '--at', mountPoint);
    else await mount({ archivePath, mountPoint });
  }
  await measure(`${PLACES} places of one image`);
  await clip.stop();

  ctx.log(`${PLACES} images of 4,000 files`);
  const archives: string[] = [];
  for (let i = 0; i < PLACES; i++) archives.push(await smallArchive(clip, i));
  for (const [i, small] of archives.entries()) {
    const mountPoint = await clip.place(`place-${i}`);
    if (i === 0) await clip.ok('mount', '--clip', small, '--at', mountPoint);
    else await mount({ archivePath: small, mountPoint });
  }
  await measure(`${PLACES} images`);

  ctx.log(`${LOOPS} mounts and unmounts`);
  const loop = await clip.place('loop');
  const { serverPid, keeperPid } = await client.health();
  const prints: { server: ReturnType<typeof footprint>; keeper: ReturnType<typeof footprint> }[] = [];
  for (let i = 0; i < LOOPS; i++) {
    await mount({ archivePath, mountPoint: loop });
    await unmount(loop);
    if (i === LOOPS / 4 - 1 || i === LOOPS - 1) {
      await settle();
      prints.push({ server: footprint(serverPid), keeper: footprint(keeperPid) });
    }
  }
  const [before, after] = prints as [(typeof prints)[0], (typeof prints)[0]];
  const grown = (who: 'server' | 'keeper', what: 'fds' | 'threads' | 'rss'): number =>
    after[who][what] - before[who][what];
  const note = `from mount ${LOOPS / 4} to ${LOOPS}`;
  rows.push(
    bounded('descriptors leaked by the loop', grown('server', 'fds') + grown('keeper', 'fds'), '', { atMost: 0 }, note),
    bounded(
      'threads leaked by the loop',
      grown('server', 'threads') + grown('keeper', 'threads'),
      '',
      { atMost: 0 },
      note,
    ),
    bounded('server grown by the loop', grown('server', 'rss') / 1e6, 'MB', { atMost: 10 }, note),
    bounded('keeper grown by the loop', grown('keeper', 'rss') / 1e6, 'MB', { atMost: 3 }, note),
  );
  await clip.stop();
  return rows;
}
