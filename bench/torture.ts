// npm run torture [-- --kills N --readers N --mounts N --cold|--warm --plane kernel]: readers verify files while the server is killed.
// npm run torture -- --requests N: the memory of a server after N requests (requests.ts).
// npm run torture -- registry [--faults N --readers N]: faults between the reader and the registry (registry-torture.ts).
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { ClipdClient } from '../src/client/index.js';
import type { MountInfoReply } from '../src/wire/index.js';
import { Clipctl } from '../test/support/clipctl.js';
import { layerLike } from '../test/support/gzip.js';
import { writeImage } from '../test/support/images.js';
import { mountedAs, sha256Of } from '../test/support/mounted.js';
import { startRegistry, type TestRegistry } from '../test/support/registry.js';
import { file, tar } from '../test/support/tar.js';
import { median } from './support.js';
import type { ReaderData, ReaderResult } from './torture-reader.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    kills: { type: 'string', default: '100' },
    readers: { type: 'string', default: '16' },
    mounts: { type: 'string', default: '1,50' },
    cold: { type: 'boolean', default: false },
    warm: { type: 'boolean', default: false },
    plane: { type: 'string', default: 'fuse' },
    requests: { type: 'string' },
    faults: { type: 'string', default: '10000' },
    json: { type: 'boolean', default: false },
  },
});
const kills = Number(values.kills);
const readers = Number(values.readers);
const kernel = values.plane === 'kernel';
if (!kernel && values.plane !== 'fuse') throw new Error('--plane is fuse or kernel');
/** Target of the median time from a kill to the next answer. */
const RECOVERY_MS = 400;

const undo: (() => Promise<void> | void)[] = [];
async function undoAll(): Promise<void> {
  for (let step = undo.pop(); step; step = undo.pop()) await step();
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void undoAll().finally(() => process.exit(130)));
}
const log = (line: string): void => void process.stderr.write(`  ${line}\n`);
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

interface Prepared {
  readonly archives: readonly string[];
  readonly files: ReaderData['files'];
  readonly bytes: number;
}

/** One large image, or many small ones, each pushed to the registry and indexed with small spans. */
async function prepare(clip: Clipctl, registry: TestRegistry, mounts: number): Promise<Prepared> {
  const archives: string[] = [];
  const files: ReaderData['files'][number][] = [];
  let bytes = 0;
  const perImage = mounts === 1 ? 300 : 20;
  for (let place = 0; place < mounts; place++) {
    const parts: Uint8Array[] = [];
    for (let i = 0; i < perImage; i++) {
      // Sizes from 0 to 1 MiB, most of them small.
      const size = Math.floor(2 ** (20 * ((i * 0.618034) % 1))) * (i % 17 === 0 ? 0 : 1);
      const content = layerLike(size, 1 + place * 1000 + i);
      parts.push(file(`f${i}`, content));
      files.push({ place, path: `f${i}`, sha256: sha256Of(content), size });
      bytes += size;
    }
    const image = writeImage([tar(...parts)]);
    try {
      const name = `torture/i${place}:latest`;
      await registry.push(image.reference, name);
      const archive = clip.path(`i${mounts}-${place}.clip`);
      await clip.ok('index', '--image', `${registry.host}/${name}`, '--out', archive, '--checkpoint', '1');
      archives.push(archive);
    } finally {
      image.remove();
    }
  }
  return { archives, files, bytes };
}

/** Where the server answers for names: of an image that the kernel serves at the FUSE connection below it. */
async function connectionsOf(clip: Clipctl, places: readonly string[]): Promise<string[]> {
  const mounted = await clip.json<MountInfoReply[]>('ps');
  return places.map((place) => {
    const { plane } = mounted.find(({ mountPoint }) => mountPoint === place)!;
    if (plane.kind !== values.plane) throw new Error(`${place} is served by ${plane.kind}`);
    return kernel ? mountedAs(place)!.source.replace(/\.tree$/, '') : place;
  });
}

interface Verdict {
  readonly plane: string;
  readonly mounts: number;
  readonly cache: 'cold' | 'warm';
  readonly kills: number;
  readonly files: number;
  readonly megabytes: number;
  readonly failures: readonly string[];
  readonly recoveryMs: { readonly median: number; readonly worst: number };
  readonly worstReadMs: number;
  readonly unfinishedReaders: number;
}

async function torture(registry: TestRegistry, mounts: number, cache: 'cold' | 'warm'): Promise<Verdict> {
  const clip = await Clipctl.create();
  undo.push(() => clip.close());
  const prepared = await prepare(clip, registry, mounts);
  const places: string[] = [];
  // Cold: a cache for a quarter of the data misses, evicts and fetches all the time.
  const size = cache === 'cold' ? ['--cache-size', String(Math.floor(prepared.bytes / 4))] : [];
  for (const [i, archive] of prepared.archives.entries()) {
    const place = await clip.place(`m${i}`);
    await clip.ok('mount', '--clip', archive, '--at', place, '--plane', values.plane, ...size);
    places.push(place);
  }
  if (cache === 'warm') for (const f of prepared.files) readFileSync(`${places[f.place]}/${f.path}`);

  const connections = await connectionsOf(clip, places);
  const client = new ClipdClient(clip.path('root'));
  const stop = new SharedArrayBuffer(4);
  const workerData: ReaderData = { places, files: prepared.files, stop, direct: !kernel };
  const results: ReaderResult[] = [];
  const threads = Array.from({ length: readers }, () => {
    const thread = new Worker(new URL('./torture-reader.js', import.meta.url), { workerData });
    thread.on('message', (result: ReaderResult) => results.push(result));
    return new Promise<void>((resolve, reject) => thread.once('exit', () => resolve()).once('error', reject));
  });
  const ended = Promise.all(threads);

  const recoveries: number[] = [];
  let killed = 0;
  while (killed < kills) {
    await sleep(200 + Math.random() * 800);
    // The kernel's own EROFS takes no O_DIRECT: without its pages it asks the server again.
    if (kernel) writeFileSync('/proc/sys/vm/drop_caches', '1');
    process.kill((await client.health()).serverPid, 'SIGKILL');
    killed++;
    // A new name: only a server can say that it does not exist.
    const started = performance.now();
    try {
      statSync(`${connections[killed % connections.length]}/none-${killed}`);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
    recoveries.push(performance.now() - started);
    if (killed % 20 === 0) log(`${mounts} mounts, ${cache}: ${killed} kills`);
  }
  Atomics.store(new Int32Array(stop), 0, 1);
  // Does not keep the process when they end before.
  const patience = new Promise<void>((resolve) => void setTimeout(resolve, 60_000).unref());
  await Promise.race([ended, patience]);
  const verdict: Verdict = {
    plane: values.plane,
    mounts,
    cache,
    kills: killed,
    files: results.reduce((sum, r) => sum + r.files, 0),
    megabytes: Math.round(results.reduce((sum, r) => sum + r.bytes, 0) / 1e6),
    failures: results.flatMap((r) => r.failures),
    recoveryMs: { median: Math.round(median(recoveries)), worst: Math.round(Math.max(...recoveries)) },
    worstReadMs: Math.round(Math.max(...results.map((r) => r.worstMs))),
    unfinishedReaders: readers - results.length,
  };
  undo.pop();
  await clip.close();
  return verdict;
}

let failed = false;

async function replayRequests(count: number): Promise<void> {
  const { replay } = await import('./requests.js');
  const verdict = await replay(count, (step) => undo.push(step), log);
  failed = !verdict.ok;
  const { requests, reads, misses, seconds, server, keeper } = verdict;
  const change = ({ before, after }: typeof server): string => `${before.toFixed(1)} → ${after.toFixed(1)} MB`;
  process.stdout.write(
    values.json
      ? `${JSON.stringify(verdict, null, 2)}\n`
      : `${verdict.ok ? 'ok  ' : 'MISS'} ${requests} requests in ${seconds} s, ${reads} of them reads, ${misses} misses: ` +
          `server ${change(server)}, keeper ${change(keeper)}\n`,
  );
}

async function faultRegistries(): Promise<void> {
  const { isGood, tortureRegistries } = await import('./registry-torture.js');
  const results = await tortureRegistries({ faults: Number(values.faults), readers, awayMs: 30_000, log });
  failed = !results.every(isGood);
  if (values.json) {
    process.stdout.write(`${JSON.stringify(results, null, 2)}\n`);
    return;
  }
  for (const verdict of results) {
    const faults = Object.entries(verdict.faults);
    const count = faults.reduce((sum, [, n]) => sum + n, 0);
    process.stdout.write(
      `${isGood(verdict) ? 'ok  ' : 'MISS'} ${verdict.registry}: ${count} faults, ${readers} readers, ${verdict.reads} reads, ` +
        `${verdict.wrongBytes} with wrong bytes, ${verdict.failedReads.length} failed, ${verdict.requests} requests ` +
        `(≤ ${verdict.requestBound}), ${verdict.tokens} tokens, ${verdict.cachedRequests} requests for cached spans, ` +
        `slowest read ${verdict.worstReadMs} ms\n     ${faults.map(([name, n]) => `${name} ${n}`).join(', ')}\n`,
    );
    for (const failure of verdict.failedReads.slice(0, 10)) process.stdout.write(`     ${failure}\n`);
  }
}

const verdicts: Verdict[] = [];
async function killServers(): Promise<void> {
  const registry = await startRegistry();
  undo.push(() => registry.stop());
  const caches =
    values.cold === values.warm ? (['cold', 'warm'] as const) : values.cold ? ['cold' as const] : ['warm' as const];
  for (const mounts of values.mounts.split(',').map(Number)) {
    for (const cache of caches) {
      const verdict = await torture(registry, mounts, cache);
      verdicts.push(verdict);
      const ok =
        verdict.failures.length === 0 && verdict.unfinishedReaders === 0 && verdict.recoveryMs.median <= RECOVERY_MS;
      failed ||= !ok;
      if (values.json) continue;
      process.stdout.write(
        `${ok ? 'ok  ' : 'MISS'} ${verdict.plane}, ${mounts} mounts, ${cache}: ${verdict.kills} kills, ${readers} readers, ` +
          `${verdict.files} files (${verdict.megabytes} MB) verified, ${verdict.failures.length} failed, ` +
          `${verdict.unfinishedReaders} unfinished, recovery median ${verdict.recoveryMs.median} ms (≤ ${RECOVERY_MS}), ` +
          `worst ${verdict.recoveryMs.worst} ms, slowest read ${verdict.worstReadMs} ms\n`,
      );
      for (const failure of verdict.failures) process.stdout.write(`     ${failure}\n`);
    }
  }
  if (values.json) process.stdout.write(`${JSON.stringify(verdicts, null, 2)}\n`);
}

try {
  if (positionals[0] === 'registry') await faultRegistries();
  else await (values.requests === undefined ? killServers() : replayRequests(Number(values.requests)));
} finally {
  await undoAll();
}
process.exitCode = failed ? 1 : 0;
