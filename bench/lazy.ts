import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { openArchive, stateDigest } from '../src/archive/index.js';
import { NO_STATE, SpanInflater } from '../src/gzip/index.js';
import { Clipctl, type Stats } from '../test/support/clipctl.js';
import { BIG_BYTES, BIG_FILE } from './images.js';
import {
  type BenchContext,
  type BenchImage,
  bounded,
  dropCaches,
  type Row,
  rated,
  run as runOk,
  type SuiteResult,
} from './support.js';

/** In the Python image: 58 MB. */
const LARGE_FILE = 'usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblasp-r0.3.21.a';

/** Bytes and requests of reads: the Python image, a registry on loopback, a new clipd with an empty cache each time. */
export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const image = await ctx.python();
  const scratch = await ctx.scratch();
  const clip = path.join(scratch, 'py.clip');
  const host = await Clipctl.create({ parent: scratch });
  ctx.defer(() => host.close());
  await host.ok('index', '--image', image.reference, '--out', clip);
  const inspected = await host.json<{ layers: { spans: number }[] }>('inspect', '--clip', clip);
  const rows: Row[] = [];

  await cold(ctx, scratch, clip, ['--no-readahead'], async (mountPoint, stats) => {
    const file = path.join(mountPoint, LARGE_FILE);
    const { size } = await stat(file);
    // A page in the middle of a file, so that neither a header nor the kernel's read-ahead counts.
    const before = await stats();
    readAt(file, Math.floor(size / 2 / 4096) * 4096 + 4096, 4096);
    const after = await stats();
    const delta = (name: string): number => (after.counters[name] ?? 0) - (before.counters[name] ?? 0);
    rows.push(bounded('one 4 KiB read: requests', delta('requests'), '', { atMost: 1 }));
    rows.push(
      bounded(
        'one 4 KiB read: spans fetched',
        delta('spansFetched'),
        '',
        { atMost: 2 },
        '2 where it straddles a boundary',
      ),
    );
    rows.push({ metric: 'one 4 KiB read: compressed bytes', value: delta('demandBytes') / 1e6, unit: 'MB' });
  });

  for (const [label, options, most] of [
    ['import numpy', [], 18],
    ['import numpy, no read-ahead', ['--no-readahead'], null],
  ] as const) {
    await cold(ctx, scratch, clip, options, async (mountPoint, stats) => {
      const started = performance.now();
      await runOk('chroot', [mountPoint, 'python3', '-c', 'import numpy']);
      const seconds = (performance.now() - started) / 1000;
      const { counters } = await stats();
      const share = (100 * fetchedBytes(counters)) / image.compressedBytes;
      rows.push(
        most === null
          ? { metric: `${label}: fetched`, value: share, unit: '%' }
          : bounded(`${label}: fetched`, share, '%', { atMost: most }),
      );
      rows.push({ metric: `${label}: requests`, value: counters.requests ?? 0, unit: '' });
      rows.push({ metric: `${label}: time`, value: seconds, unit: 's' });
    });
  }

  rows.push(...(await sequential(ctx, scratch)));
  const spans = inspected.layers.reduce((sum, layer) => sum + layer.spans, 0);
  return { title: `py, ${(image.compressedBytes / 1e6).toFixed(0)} MB, ${spans} spans`, rows };
}

/** A cold `cat` of a 500 MB file, against what one core inflates: all cores on one file. */
async function sequential(ctx: BenchContext, scratch: string): Promise<Row[]> {
  const image = await ctx.big();
  const clip = path.join(scratch, 'big.clip');
  const host = await Clipctl.create({ parent: scratch });
  ctx.defer(() => host.close());
  await host.ok('index', '--image', image.reference, '--out', clip);
  await host.close();
  const one = inflateRate(clip, image.layers[0]!);
  const rounds: { rate: number; idle: number }[] = [];
  let requests = 0;
  for (let round = 0; round < 3; round++) {
    await cold(ctx, scratch, clip, [], async (mountPoint, stats) => {
      await warm(image);
      const before = idleTime();
      // Not into a pipe: taking 500 MB out of one costs more than everything that is measured here.
      const { seconds } = await runOk('sh', ['-c', 'exec cat "$0" >/dev/null', path.join(mountPoint, BIG_FILE)]);
      const after = idleTime();
      rounds.push({
        rate: BIG_BYTES / 1e6 / seconds,
        idle: (100 * (after.idle - before.idle)) / (after.all - before.all),
      });
      requests = (await stats()).counters.requests ?? 0;
    });
  }
  const best = rounds.reduce((a, b) => (b.rate > a.rate ? b : a));
  const perCore = best.rate / one / os.availableParallelism();
  const name = 'cold cat of a 500 MB file';
  return [
    { metric: 'inflate, one core', value: one, unit: 'MB/s' },
    rated(name, best.rate, 'MB/s', { value: perCore, to: 'cores × inflate' }, { atLeast: 0.45 }),
    bounded(`${name}: idle CPU`, best.idle, '%', { atMost: 10 }, 'waiting for the disk counts as idle'),
    { metric: `${name}: requests`, value: requests, unit: '' },
  ];
}

/** Lets the registry read the layer from its disk first, because its disk is not measured. */
async function warm(image: BenchImage): Promise<void> {
  const [host, name] = image.reference.split(/[/:](?=[a-z])/) as [string, string];
  const digest = `sha256:${path.basename(image.layers[0]!)}`;
  const { body, status } = await fetch(`http://${host}/v2/${name}/blobs/${digest}`);
  if (status !== 200 || body === null) throw new Error(`the registry answers ${status}`);
  for await (const _ of body);
}

/** Idle and total ticks of all cores together. */
function idleTime(): { idle: number; all: number } {
  // proc(5): user nice system idle iowait irq softirq steal; the other fields are contained in these.
  const ticks = readFileSync('/proc/stat', 'utf8').split('\n')[0]!.split(/\s+/).slice(1, 9).map(Number);
  return { idle: ticks[3]! + ticks[4]!, all: ticks.reduce((sum, n) => sum + n, 0) };
}

/** Inflation by one core, span by span as the inflate workers do it, and nothing else: MB/s, the best of three. */
function inflateRate(clip: string, layer: string): number {
  const file = readFileSync(clip);
  const archive = openArchive({
    name: clip,
    size: file.length,
    readAt: (offset, length) => file.subarray(offset, offset + length),
  });
  const { table } = archive.layers[0]!;
  const blob = readFileSync(layer);
  const inflater = new SpanInflater();
  const rates: number[] = [];
  for (let round = 0; round < 3; round++) {
    const started = performance.now();
    for (let i = 0; i < table.count; i++) {
      const [from, to] = [table.bitOffset[i]!, table.bitOffset[i + 1]!];
      const compressed = blob.subarray(Math.floor(from / 8), Math.ceil(to / 8));
      const length = table.layerOffset[i + 1]! - table.layerOffset[i]!;
      const stored = archive.checkpointState(0, i) ?? NO_STATE.stored;
      inflater.inflate(compressed, from % 8, { stored, sha256: stateDigest(table, i) }, length, () => {});
    }
    rates.push(table.layerOffset[table.count]! / 1e3 / (performance.now() - started));
  }
  return Math.max(...rates);
}

/** Mounts with a clipd and a cache of its own and cold kernel caches, and removes all of it afterwards. */
async function cold(
  ctx: BenchContext,
  scratch: string,
  clip: string,
  options: readonly string[],
  use: (mountPoint: string, stats: () => Promise<Stats>) => Promise<void>,
): Promise<void> {
  const host = await Clipctl.create({ parent: scratch });
  ctx.defer(() => host.close());
  const mountPoint = await host.place('mnt');
  await host.ok('mount', '--clip', clip, '--at', mountPoint, ...options);
  dropCaches();
  await use(mountPoint, () => host.stats());
  await host.close();
}

function fetchedBytes(counters: Readonly<Record<string, number>>): number {
  return (
    (counters.demandBytes ?? 0) +
    (counters.readaheadBytes ?? 0) +
    (counters.prefetchBytes ?? 0) +
    (counters.speculatedBytes ?? 0)
  );
}

function readAt(file: string, offset: number, length: number): void {
  const fd = openSync(file, 'r');
  try {
    const buffer = Buffer.alloc(length);
    if (readSync(fd, buffer, 0, length, offset) !== length) throw new Error(`${file}: short read at ${offset}`);
  } finally {
    closeSync(fd);
  }
}
