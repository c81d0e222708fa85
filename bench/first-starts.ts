import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { ContentTier, openContentCache } from '../src/cache/index.js';
import { ArchiveFile } from '../src/check/index.js';
import { ProfileStore, parseProfile, type RecordedProfile, startName } from '../src/lazy/index.js';
import { Metrics, silentLogger } from '../src/metrics/index.js';
import { Clipctl } from '../test/support/clipctl.js';
import { eventually } from '../test/support/mounted.js';
import { spawnProxy } from '../test/support/proxy-process.js';
import { compressedBytes, localRun } from './floor.js';
import { measureStarts, ROUNDS, type Start } from './starts.js';
import { type BenchContext, median, type Row, rated, type SuiteResult } from './support.js';
import { inside, WORKLOADS, type WorkloadImage, workloadImage } from './workloads.js';

/** What may be fetched beside twice the needed bytes. */
const SLACK_MB = 8;

/** Of one workload, each relative to its floor. */
interface Ratios {
  readonly first: number;
  readonly second: number;
}

/**
 * Starts of programs from a default archive, with an empty cache: first ones, of which nothing is known, with a clipd that runs (it has
 * another image mounted) and with the start of one; and second ones, on a machine that finds nothing but the profile of a first one.
 * `--only` names workloads, those among them that are run on request only.
 */
export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const usual = Object.keys(WORKLOADS).filter((name) => WORKLOADS[name]!.onRequest !== true);
  const names = ctx.only ?? usual;
  const unknown = names.filter((name) => !(name in WORKLOADS));
  if (unknown.length > 0) {
    throw new Error(`no such workload: ${unknown.join(', ')}; there are ${Object.keys(WORKLOADS).join(', ')}`);
  }
  const scratch = await ctx.scratch();
  const indexer = await Clipctl.create({ parent: scratch });
  ctx.defer(() => indexer.close());
  const other = path.join(scratch, 'other.clip');
  const rows: Row[] = [];
  const ratios: Ratios[] = [];
  for (const [i, name] of names.entries()) {
    ctx.log(name);
    const image = await workloadImage(ctx, name);
    if (i === 0) await indexer.ok('index', '--image', image.reference, '--out', other, '--checkpoint', '4');
    ratios.push(await measure(ctx, { name, image, indexer, scratch, other }, rows));
  }
  if (ctx.only === null) {
    const middle = (metric: string, of: keyof Ratios, atMost: number): Row => {
      const value = median(ratios.map((one) => one[of]));
      return { metric, value, unit: '×', target: `≤ ${atMost} ×`, ok: value <= atMost };
    };
    rows.push(
      middle('median of ready ÷ floor', 'first', 1.5),
      middle('second start: median of ready ÷ floor', 'second', 1.3),
    );
  }
  const { bytesPerSecond, roundTripMs } = ctx.link;
  const link = `${(bytesPerSecond * 8) / 1e6} Mbit/s, ${roundTripMs} ms`;
  const title = `first starts, nothing recorded; second starts by their profile, on another machine; clipd running; ${link}`;
  return { title, rows, ...(ctx.usualLink ? {} : { block: `starts-${(bytesPerSecond * 8) / 1e6},${roundTripMs}` }) };
}

interface Setting {
  readonly name: string;
  readonly image: WorkloadImage;
  readonly indexer: Clipctl;
  readonly scratch: string;
  /** An archive that is mounted before, where clipd is to run. */
  readonly other: string;
}

async function measure(ctx: BenchContext, setting: Setting, rows: Row[]): Promise<Ratios> {
  const { name, image, indexer, scratch, other } = setting;
  const workload = WORKLOADS[name]!;
  const { bytesPerSecond, roundTripMs } = ctx.link;
  const [upstream, repository] = image.reference.split(/\/(.*)/);
  const proxy = await spawnProxy({ upstream: `http://${upstream}`, latencyMs: roundTripMs, bytesPerSecond });
  try {
    const clip = path.join(scratch, `${name}.clip`);
    const storage = `${proxy.host}/${repository}`;
    await indexer.ok('index', '--image', image.reference, '--storage-image', storage, '--out', clip);

    const local = await localRun(image.rootfs, workload.command, ROUNDS, (root) => inside(root, workload));
    const own = Math.min(...local.seconds);
    const { pages: needed, spans } = compressedBytes(clip, local.touched);
    const floor = (3 * roundTripMs) / 1000 + needed / bytesPerSecond + own;

    const program = (root: string): [string, readonly string[]] => inside(root, workload);
    const profiles: RecordedProfile[] = [];
    const after = async (host: Clipctl, mountPoint: string): Promise<void> => {
      await host.ok('umount', mountPoint);
      profiles.push(await keptProfile(host));
    };
    const starts = (options: object): Promise<Start[]> =>
      measureStarts(ctx, image, scratch, clip, proxy, { program, ...options });
    const first = await starts({ other, after });
    const started = ctx.usualLink ? await starts({}) : [];
    let shares = 0;
    const daemon = async (): Promise<string[]> => {
      const directory = path.join(scratch, `${name}-shared-${shares++}`);
      await share(clip, profiles[0]!, directory);
      return ['--content-cache', `dir:${directory}`];
    };
    const second = await starts({ other, daemon, after: foundIt });

    const of = (list: readonly Start[], key: keyof Start): number => median(list.map((start) => start[key]));
    const ready = of(first, 'ready');
    const fetched = of(first, 'bytes');
    const most = 2 * needed + SLACK_MB * 1e6;
    const secondReady = of(second, 'ready');
    const secondFetched = of(second, 'bytes');
    const againstFloor = (value: number): { value: number; to: string } => ({ value: value / floor, to: 'floor' });
    rows.push(
      {
        metric: `${name}: floor`,
        value: floor,
        unit: 's',
        note: `${own.toFixed(3)} s its own time; needed: ${(needed / 1e6).toFixed(1)} MB, in whole spans ${(spans / 1e6).toFixed(1)} MB`,
      },
      rated(`${name}: ready`, ready, 's', againstFloor(ready), { atMost: 2 }),
      {
        metric: `${name}: fetched`,
        value: fetched / 1e6,
        unit: 'MB',
        ratio: { value: fetched / needed, to: 'needed' },
        target: `≤ ${(most / 1e6).toFixed(1)} MB`,
        ok: fetched <= most,
      },
      { metric: `${name}: requests`, value: of(first, 'requests'), unit: '' },
    );
    if (started.length > 0) {
      const value = of(started, 'ready');
      rows.push({ metric: `${name}, with clipd's start: ready`, value, unit: 's', ratio: againstFloor(value) });
    }
    rows.push(
      rated(`${name}, second start: ready`, secondReady, 's', againstFloor(secondReady), { atMost: 1.3 }),
      rated(
        `${name}, second start: fetched`,
        secondFetched / 1e6,
        'MB',
        { value: secondFetched / needed, to: 'needed' },
        { atMost: 1.5 },
      ),
      { metric: `${name}, second start: requests`, value: of(second, 'requests'), unit: '' },
    );
    return { first: ready / floor, second: secondReady / floor };
  } finally {
    await proxy.stop();
  }
}

/** What clipd has kept of its only start: at the unmounting, or later where a process that the program left behind (git's) still has the mount. */
async function keptProfile(host: Clipctl): Promise<RecordedProfile> {
  const directory = host.path('cache', 'profiles');
  await eventually(() => existsSync(directory));
  const names = await readdir(directory);
  if (names.length !== 1) throw new Error(`${directory} has ${names.length} profiles`);
  const file = path.join(directory, names[0]!);
  return parseProfile(await readFile(file, 'utf8'), file);
}

/** Puts a profile, and nothing else, into a content cache that is an empty directory. */
async function share(clip: string, profile: RecordedProfile, directory: string): Promise<void> {
  await mkdir(directory);
  const file = ArchiveFile.open(clip);
  file.close();
  const { image } = file.archive;
  const content = new ContentTier(openContentCache(`dir:${directory}`));
  const metrics = new Metrics();
  try {
    const store = new ProfileStore(path.join(directory, 'own'), { content }, silentLogger(), metrics);
    store.begin(startName(image), image)(profile);
    await store.idle(10_000);
    if (metrics.snapshot().profilesPublished !== 1) throw new Error('the profile was not published');
  } finally {
    await content.close();
  }
}

/** A second start that did not find the profile would be one more first start. */
async function foundIt(host: Clipctl): Promise<void> {
  const { counters } = await host.stats();
  if (counters.profilesFoundShared !== 1) throw new Error('the second start has not found the profile');
}
