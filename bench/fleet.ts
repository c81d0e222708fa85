import path from 'node:path';
import { keyOfName } from '../src/cache/content/named.js';
import { ArchiveFile } from '../src/check/index.js';
import { startName } from '../src/lazy/index.js';
import { Clipctl, PROGRAM } from '../test/support/clipctl.js';
import { redisCli, type ServerProcess, startRedis } from '../test/support/content-servers.js';
import { spawnProxy } from '../test/support/proxy-process.js';
import { type Fleet, type Machine, makeFleet } from './fleet-network.js';
import { compressedBytes, localRun } from './floor.js';
import { pythonRoot } from './images.js';
import { ROUNDS, WORKLOAD } from './starts.js';
import {
  type BenchContext,
  bounded,
  dropCaches,
  median,
  type Row,
  rated,
  run as runOk,
  type SuiteResult,
} from './support.js';

const MACHINES = 8;
/** Time until all of clipd is loaded, the server in reserve included, which boots after 2 s. */
const SETTLED_MS = 4000;
/** Spans and profile are in Redis by then. */
const SHARED_MS = 20_000;

interface Proxy {
  readonly host: string;
  requests(): Promise<{ readonly path: string; readonly bytes: number }[]>;
  reset(): Promise<void>;
}

interface Started {
  readonly mounted: number;
  readonly ready: number;
  /** Blob bytes that the registry gave meanwhile. */
  readonly bytes: number;
  readonly requests: number;
  readonly counters: Readonly<Record<string, number>>;
}

/** clipd of one machine: its disk is empty, and it runs, with another image mounted. */
class Node {
  private constructor(
    readonly machine: Machine,
    readonly clip: Clipctl,
    readonly flags: readonly string[],
  ) {}

  static async create(ctx: BenchContext, scratch: string, machine: Machine, flags: readonly string[]): Promise<Node> {
    const clip = await Clipctl.create({ parent: scratch });
    ctx.defer(() => clip.close());
    return new Node(machine, clip, flags);
  }

  async ok(...args: string[]): Promise<{ stdout: string; seconds: number }> {
    const ran = await this.machine.run(process.execPath, [PROGRAM, ...args], { env: this.clip.env });
    if (ran.code !== 0) throw new Error(`clipctl ${args.join(' ')}: ${ran.stderr.trim()}`);
    return ran;
  }

  async counters(): Promise<Readonly<Record<string, number>>> {
    return (JSON.parse((await this.ok('stats', '--json')).stdout) as { counters: Record<string, number> }).counters;
  }

  /** Starts clipd, by mounting something else. */
  async boot(other: string): Promise<void> {
    await this.ok('mount', '--clip', other, '--at', await this.clip.place('other'), '--no-prefetch', ...this.flags);
    await new Promise((resolve) => setTimeout(resolve, SETTLED_MS));
  }

  async start(archive: string, proxy: Proxy): Promise<Started> {
    const place = await this.clip.place('mnt');
    await proxy.reset();
    await runOk('sync', []);
    dropCaches();
    const mount = await this.ok('mount', '--clip', archive, '--at', place, '--plain-http', ...this.flags);
    const ran = await this.machine.run('chroot', [place, ...WORKLOAD]);
    if (ran.stdout !== 'ready\n') throw new Error(`the workload failed: ${ran.stderr.trim().slice(-300)}`);
    const blobs = (await proxy.requests()).filter((request) => request.path.includes('/blobs/'));
    return {
      mounted: mount.seconds,
      ready: mount.seconds + ran.firstOutput,
      bytes: blobs.reduce((sum, { bytes }) => sum + bytes, 0),
      requests: blobs.length,
      counters: await this.counters(),
    };
  }

  /** Until others find what it fetched, and the profile of its start. */
  async shared(): Promise<void> {
    await this.ok('umount', this.clip.path('mnt'));
    const end = performance.now() + SHARED_MS;
    for (;;) {
      const counters = await this.counters();
      const { contentQueueBytes, contentDropped, profilesPublished = 0, profilesNotPublished } = counters;
      if (contentDropped !== 0) throw new Error(`${contentDropped} spans did not make it into the content cache`);
      if (contentQueueBytes === 0 && profilesPublished > 0) break;
      if (performance.now() > end) {
        const told = Object.entries(counters).filter(([name]) => /^(profile|content)/.test(name));
        throw new Error(
          `no profile was published (${profilesNotPublished} failed): ${JSON.stringify(Object.fromEntries(told))}`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

async function redisFor(ctx: BenchContext, { address }: Fleet): Promise<{ redis: ServerProcess; flags: string[] }> {
  const redis = await startRedis(undefined, '--bind', `127.0.0.1 ${address}`, '--protected-mode', 'no');
  ctx.defer(() => redis.stop());
  return { redis, flags: ['--content-cache', `redis://${address}:${redis.port}`] };
}

interface Setting {
  readonly ctx: BenchContext;
  readonly scratch: string;
  readonly fleet: Fleet;
  readonly proxy: Proxy;
  readonly archive: string;
  readonly other: string;
  readonly floor: number;
  readonly needed: number;
}

/** Eight machines, one after the other, that share a Redis. */
async function withRedis({ ctx, scratch, fleet, proxy, archive, other, floor }: Setting): Promise<Row[]> {
  const { flags } = await redisFor(ctx, fleet);
  const starts: Started[] = [];
  for (const machine of fleet.machines) {
    const node = await Node.create(ctx, scratch, machine, flags);
    await node.boot(other);
    starts.push(await node.start(archive, proxy));
    if (starts.length === 1) await node.shared();
    await node.clip.close();
  }
  const [first, ...others] = starts as [Started, ...Started[]];
  const slowest = Math.max(...others.map(({ ready }) => ready));
  const middle = median(others.map(({ ready }) => ready));
  const bytes = others.reduce((sum, one) => sum + one.bytes, 0);
  const found = others.filter(({ counters }) => counters.profilesFoundShared! > 0).length;
  return [
    { metric: 'Redis, 1st: ready', value: first.ready, unit: 's', ratio: { value: first.ready / floor, to: 'floor' } },
    { metric: 'Redis, 1st: from the registry', value: first.bytes / 1e6, unit: 'MB' },
    bounded('Redis, 2nd to 8th together: from the registry', bytes / 1e6, 'MB', { atMost: 0 }),
    bounded('Redis, 2nd to 8th: found the profile', found, '', { atLeast: others.length }),
    rated(
      'Redis, 2nd to 8th, the slowest: ready',
      slowest,
      's',
      { value: slowest / floor, to: 'floor' },
      { atMost: 1.3 },
    ),
    {
      metric: 'Redis, 2nd to 8th, median: ready',
      value: middle,
      unit: 's',
      ratio: { value: middle / floor, to: 'floor' },
      spread: [Math.min(...others.map(({ ready }) => ready)), slowest],
    },
    { metric: 'Redis, 2nd to 8th, median: mounted', value: median(others.map(({ mounted }) => mounted)), unit: 's' },
  ];
}

/** A second machine that knows the profile, and must fetch all bytes by itself. */
async function withProfileOnly(setting: Setting): Promise<Row[]> {
  const { ctx, scratch, fleet, proxy, archive, other, floor, needed } = setting;
  const opened = ArchiveFile.open(archive);
  opened.close();
  const { manifestDigest, command } = startName(opened.archive.image);
  const key = keyOfName(`clip shared profile 1 ${manifestDigest} ${command}`);
  const { redis, flags } = await redisFor(ctx, fleet);
  const starts: Started[] = [];
  for (const machine of fleet.machines.slice(0, ROUNDS + 1)) {
    const node = await Node.create(ctx, scratch, machine, flags);
    await node.boot(other);
    starts.push(await node.start(archive, proxy));
    await node.shared();
    await node.clip.close();
    for (const found of (await redisCli(redis.port, 'keys', '*')).split('\n')) {
      if (!found.includes(key)) await redisCli(redis.port, 'del', found);
    }
  }
  starts.shift(); // it made the profile
  const ready = median(starts.map((start) => start.ready));
  const bytes = median(starts.map((start) => start.bytes));
  return [
    rated('profile only: ready', ready, 's', { value: ready / floor, to: 'floor' }, { atMost: 1.3 }),
    rated('profile only: fetched', bytes / 1e6, 'MB', { value: bytes / needed, to: 'needed' }, { atMost: 1.5 }),
    { metric: 'profile only: requests', value: median(starts.map((start) => start.requests)), unit: '' },
  ];
}

/** Starts of one image on machines that share what they know. */
export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const image = await ctx.python();
  const scratch = await ctx.scratch();
  const { bytesPerSecond, roundTripMs } = ctx.link;
  const fleet = await makeFleet(ctx, MACHINES, bytesPerSecond);
  const [upstream, repository] = image.reference.split(/\/(.*)/);
  const proxy = await spawnProxy({ upstream: `http://${upstream}`, latencyMs: roundTripMs, address: fleet.address });
  ctx.defer(() => proxy.stop());

  const indexer = await Clipctl.create({ parent: scratch });
  ctx.defer(() => indexer.close());
  const archive = path.join(scratch, 'image.clip');
  const other = path.join(scratch, 'other.clip');
  const storage = ['--storage-image', `${proxy.host}/${repository}`];
  await indexer.ok('index', '--image', image.reference, '--out', archive, ...storage);
  await indexer.ok('index', '--image', image.reference, '--out', other, '--checkpoint', '4');

  const local = await localRun(await pythonRoot(ctx), WORKLOAD, ROUNDS);
  const own = Math.min(...local.seconds);
  const needed = compressedBytes(archive, local.touched).pages;
  const floor = (3 * roundTripMs) / 1000 + needed / bytesPerSecond + own;
  const setting = { ctx, scratch, fleet, proxy, archive, other, floor, needed };
  const rows: Row[] = [
    { metric: 'floor', value: floor, unit: 's', note: `${own.toFixed(3)} s its own time` },
    { metric: 'needed', value: needed / 1e6, unit: 'MB' },
  ];
  const parts = { redis: withRedis, profile: withProfileOnly };
  for (const [name, part] of Object.entries(parts)) {
    if (ctx.only === null || ctx.only.includes(name)) rows.push(...(await part(setting)));
  }
  const link = `${(bytesPerSecond * 8) / 1e6} Mbit/s, ${roundTripMs} ms to the registry`;
  const title = `${MACHINES} machines, clipd running; py, import numpy, scipy, pandas; default archive; ${link}`;
  return { title, rows };
}
