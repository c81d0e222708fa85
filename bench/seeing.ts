// What it costs to be watched: metrics, traces, doctor, and the size of a report.
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, constants, createReadStream, openSync, readSync, statSync } from 'node:fs';
import { get } from 'node:http';
import path from 'node:path';
import { ClipdClient, prepareMount } from '../src/client/index.js';
import { Clipctl, PROGRAM } from '../test/support/clipctl.js';
import { layerLike } from '../test/support/gzip.js';
import { writeImage } from '../test/support/images.js';
import { file, tar } from '../test/support/tar.js';
import { WORKLOAD } from './starts.js';
import { type BenchContext, bounded, median, type Row, run as runOk, type SuiteResult, timed } from './support.js';

const MOUNTS = 50;
const SCRAPES = 100;
/** Each with and without. */
const ROUNDS = 7;
const HITS = 4000;
/** Of hits in each round. */
const BATCHES = 8;
/** Between them: the scheduler's chance to place reader and worker anew. */
const PAUSE_MS = 10;
const HIT_BYTES = 4096;
const SCRAPE_EVERY_MS = 100;

export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const clip = await Clipctl.create({ parent: await ctx.scratch() });
  ctx.defer(() => clip.close());
  const rows: Row[] = [];
  for (const [name, part] of Object.entries({ metrics, hits, trace, doctor, report })) {
    if (ctx.only?.includes(name) === false) continue;
    if (part === doctor) await clip.stop();
    rows.push(...[await part(ctx, clip)].flat());
  }
  return { title: 'metrics, trace, doctor and report', rows };
}

function scrape(clip: Clipctl): Promise<number> {
  const started = performance.now();
  return new Promise((resolve, reject) => {
    get({ socketPath: clip.path('root', 'clipd.sock'), path: '/metrics', agent: false }, (response) => {
      response.on('end', () => resolve(performance.now() - started)).resume();
    }).on('error', reject);
  });
}

async function metrics(ctx: BenchContext, clip: Clipctl): Promise<Row[]> {
  ctx.log(`GET /metrics with ${MOUNTS} mounts`);
  const client = new ClipdClient(clip.path('root'));
  for (let i = 0; i < MOUNTS; i++) {
    const image = writeImage([tar(file(`file-${i}`, String(i)))]);
    const archivePath = clip.path(`small-${i}.clip`);
    await clip.ok('index', image.reference, '-o', archivePath);
    image.remove();
    const mountPoint = await clip.place(`place-${i}`);
    if (i === 0) await clip.ok('mount', archivePath, mountPoint);
    else await client.mount(await prepareMount({ archivePath, mountPoint }, {}));
  }
  await scrape(clip);
  const taken: number[] = [];
  for (let i = 0; i < SCRAPES; i++) taken.push(await scrape(clip));
  const spread = [Math.min(...taken), Math.max(...taken)] as const;
  return [{ ...bounded(`/metrics with ${MOUNTS} mounts`, median(taken), 'ms', { atMost: 10 }), spread }];
}

/**
 * The median of reads that the span cache answers, in microseconds; that of the quickest batch, because which CPUs reader and worker happen to
 * have costs more than what is measured: 7.1, 8.4, 9.8 or 80 µs. O_DIRECT: the kernel's pages are not asked.
 */
async function hitTime(fd: number): Promise<number> {
  const batches: number[] = [];
  for (let i = 0; i < BATCHES; i++) {
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    batches.push(hitBatch(fd));
  }
  return least(batches);
}

function hitBatch(fd: number): number {
  const buffer = Buffer.alloc(HIT_BYTES);
  const taken = new Float64Array(HITS);
  for (let i = 0; i < HITS; i++) {
    const started = process.hrtime.bigint();
    readSync(fd, buffer, 0, HIT_BYTES, (i % 512) * HIT_BYTES);
    taken[i] = Number(process.hrtime.bigint() - started) / 1000;
  }
  return median([...taken]);
}

/** Medians of rounds in turn, so that other work of the machine affects both sides alike. */
async function inTurn(plain: () => Promise<number>, watched: () => Promise<number>): Promise<[number[], number[]]> {
  const sides: [number[], number[]] = [[], []];
  for (let round = 0; round < ROUNDS; round++) {
    const order = round % 2 === 0 ? [0, 1] : [1, 0];
    for (const side of order) sides[side as 0 | 1].push(await (side === 0 ? plain() : watched()));
  }
  return sides;
}

function compared(
  name: string,
  unit: string,
  [plain, watched]: [number[], number[]],
  atMost: number,
  of: (values: readonly number[]) => number = median,
): Row[] {
  const [without, with_] = [of(plain), of(watched)];
  const spread = (values: readonly number[]) => [Math.min(...values), Math.max(...values)] as const;
  return [
    { metric: name, value: without, unit, spread: spread(plain) },
    {
      metric: `${name}, watched`,
      value: with_,
      unit,
      spread: spread(watched),
      ratio: { value: with_ / without, to: 'unwatched' },
      target: `≤ ${atMost} × unwatched`,
      ok: with_ / without <= atMost,
    },
  ];
}

const least = (values: readonly number[]): number => Math.min(...values);

let large = '';

async function largeMount(clip: Clipctl, mountPoint: string): Promise<void> {
  if (large === '') {
    const image = writeImage([tar(file('large', layerLike(64 << 20, 1)))]);
    large = clip.path('large.clip');
    await clip.ok('index', image.reference, '-o', large);
  }
  await clip.ok('mount', large, mountPoint, '--no-prefetch');
}

async function hits(ctx: BenchContext, clip: Clipctl): Promise<Row[]> {
  ctx.log('hits while the metrics are read, and while a trace runs');
  const mountPoint = await clip.place('hits');
  await largeMount(clip, mountPoint);
  await readAll(path.join(mountPoint, 'large'));
  const fd = openSync(path.join(mountPoint, 'large'), constants.O_RDONLY | constants.O_DIRECT);
  await hitTime(fd);
  const hit = (): Promise<number> => hitTime(fd);
  // Beside a process that does nothing: to start one, and the pause until it runs, would count otherwise.
  const plain = (): Promise<number> => beside(spawn(process.execPath, ['-e', 'setInterval(() => {}, 1e6)']), hit);
  // By a process of its own: this one is blocked in its reads.
  const program = `setInterval(() => require('node:http').get({ socketPath: process.argv[1], path: '/metrics', agent: false }, (r) => r.resume()), ${SCRAPE_EVERY_MS})`;
  const scraped = (): Promise<number> =>
    beside(spawn(process.execPath, ['-e', program, clip.path('root', 'clipd.sock')]), hit);
  const metricsRead = await inTurn(plain, scraped);
  const traced = await inTurn(plain, () => beside(tracer(clip, mountPoint), hit));
  closeSync(fd);
  await clip.ok('umount', mountPoint);
  return [
    ...compared(`hit of ${HIT_BYTES / 1024} KiB, /metrics each ${SCRAPE_EVERY_MS} ms`, 'µs', metricsRead, 1.02, least),
    ...compared(`hit of ${HIT_BYTES / 1024} KiB, trace`, 'µs', traced, 1.05, least),
  ];
}

function tracer(clip: Clipctl, mountPoint: string): ChildProcess {
  return spawn(process.execPath, [PROGRAM, 'trace', mountPoint, '--record', clip.path('trace.jsonl')], {
    env: clip.env,
    stdio: 'ignore',
  });
}

/** While a process runs that has had the time to begin. */
async function beside(child: ChildProcess, measure: () => Promise<number>): Promise<number> {
  const ended = new Promise((resolve) => child.once('close', resolve));
  try {
    await new Promise((resolve) => setTimeout(resolve, 700));
    return await measure();
  } finally {
    child.kill('SIGTERM');
    await ended;
  }
}

async function readAll(name: string): Promise<void> {
  for await (const _ of createReadStream(name, { highWaterMark: 1 << 20 }));
}

async function trace(ctx: BenchContext, clip: Clipctl): Promise<Row[]> {
  ctx.log('a cold read of 64 MiB, with and without a trace');
  const mountPoint = await clip.place('traced');
  await largeMount(clip, mountPoint);
  const cold = async (): Promise<number> => {
    await clip.ok('cache', 'prune', '--mounted');
    const [seconds = 0] = await timed(1, () => readAll(path.join(mountPoint, 'large')));
    return seconds * 1000;
  };
  const sides = await inTurn(cold, () => beside(tracer(clip, mountPoint), cold));
  await clip.ok('umount', mountPoint);
  return compared('64 MiB cold, trace', 'ms', sides, 1.05);
}

async function doctor(ctx: BenchContext, clip: Clipctl): Promise<Row> {
  ctx.log('clipctl doctor');
  const taken: number[] = [];
  for (let i = 0; i < 5; i++) taken.push((await clip.run(['doctor'])).seconds);
  const spread = [Math.min(...taken), Math.max(...taken)] as const;
  return { ...bounded('clipctl doctor', median(taken), 's', { atMost: 1 }), spread };
}

async function report(ctx: BenchContext, clip: Clipctl): Promise<Row> {
  ctx.log('the report of a cold start of py');
  const image = await ctx.python();
  const archive = clip.path('py.clip');
  await clip.ok('index', image.reference, '--plain-http', '-o', archive);
  const mountPoint = await clip.place('py');
  await clip.ok('mount', archive, mountPoint);
  await runOk('chroot', [mountPoint, ...WORKLOAD]);
  const page = clip.path('report.html');
  const { reads } = await clip.json<{ reads: number }>('report', mountPoint, '--out', page);
  await clip.ok('umount', mountPoint);
  return bounded('report of a cold start of py', statSync(page).size / 1000, 'kB', { atMost: 400 }, `${reads} reads`);
}
