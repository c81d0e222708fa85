import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { get, request } from 'node:http';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ArchiveDiff, ArchiveInfo } from '../../src/archives/index.js';
import { ClipdClient, mount as mountLibrary, type ReadEvent, traceReads } from '../../src/client/index.js';
import type { Metric } from '../../src/metrics/index.js';
import type { Stats } from '../../src/wire/index.js';
import { Clipctl, PROGRAM, runProgram } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { dir, file, tar } from '../support/tar.js';

// Metrics, traces, stats, diff and log levels of a real clipd with a real registry. Needs root and /dev/fuse.

const FIRST = layerLike(3_000_000, 1);
const SECOND = layerLike(3_000_000, 2);

let registry: TestRegistry;
let clip: Clipctl;
let place: string;
let archive: string;

beforeAll(async () => {
  registry = await startRegistry();
  const image = writeImage([tar(dir('data'), file('data/first', FIRST), file('data/second', SECOND))]);
  await registry.push(image.reference, 'app:one');
  image.remove();
  const next = writeImage([tar(dir('data'), file('data/first', FIRST), file('data/third', SECOND))]);
  await registry.push(next.reference, 'app:two');
  next.remove();
  clip = await Clipctl.create();
  place = await clip.place('mnt');
  archive = clip.path('app.clip');
  await clip.ok('index', '--image', `${registry.host}/app:one`, '--out', archive);
  await clip.ok('mount', '--clip', archive, '--at', place, '--no-prefetch');
}, 60_000);
afterAll(async () => {
  await clip?.close();
  await registry?.stop();
});

function fetchText(options: {
  socketPath?: string;
  port?: number;
  path: string;
}): Promise<{ type: string; text: string }> {
  return new Promise((resolve, reject) => {
    get({ host: '127.0.0.1', ...options }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => {
        const type = response.headers['content-type'] ?? '';
        resolve({ type, text: `${response.statusCode} ${Buffer.concat(chunks).toString()}` });
      });
    }).on('error', reject);
  });
}

const socket = (): string => clip.path('root', 'clipd.sock');

function figure(metrics: readonly Metric[], name: string, labels: Record<string, string> = {}): number {
  const metric = metrics.find((one) => one.name === name);
  const sample = metric?.samples.find((one) =>
    Object.entries(labels).every(([label, value]) => one.labels[label] === value),
  );
  if (sample === undefined) throw new Error(`no ${name} ${JSON.stringify(labels)}`);
  return 'value' in sample ? sample.value : sample.count;
}

test('trace tells each read that waited, with file, source, process and time, and nothing of hits', async () => {
  const lines: string[] = [];
  let begun = false;
  const tracing = new Promise<{ code: number | null }>((resolve, reject) => {
    const ran = runProgram(process.execPath, [PROGRAM, 'trace', place, '--record', clip.path('trace.jsonl')], {
      env: clip.env,
      onStart: (child) => {
        child.stderr!.on('data', (chunk: Buffer) => {
          lines.push(chunk.toString());
          if (begun || !lines.join('').includes('recording')) return;
          begun = true;
          void (async () => {
            // Another process: a read of this one would be attributed to it as well.
            execFileSync('dd', [`if=${join(place, 'data/first')}`, 'of=/dev/null', 'bs=64k', 'count=1'], {
              stdio: 'ignore',
            });
            execFileSync('dd', [`if=${join(place, 'data/first')}`, 'of=/dev/null', 'bs=64k', 'count=1'], {
              stdio: 'ignore',
            });
            await eventually(() => readFileSync(clip.path('trace.jsonl'), 'utf8').includes('data/first'));
            child.kill('SIGINT');
          })().catch(reject);
        });
      },
    });
    ran.then(resolve, reject);
  });
  expect((await tracing).code).toBe(0);
  const reads = readFileSync(clip.path('trace.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as ReadEvent);
  expect(statSync(clip.path('trace.jsonl')).mode & 0o777).toBe(0o600);
  const [first] = reads;
  expect(first).toMatchObject({ path: '/data/first', offset: 0, source: 'registry', command: 'dd', error: null });
  expect(first!.length).toBeGreaterThan(0);
  expect(first!.duration).toBeGreaterThan(0);
  expect(first!.pid).toBeGreaterThan(0);
  expect(Date.parse(first!.time)).toBeGreaterThan(Date.now() - 60_000);
  // The second dd was answered by the kernel's pages.
  expect(new Set(reads.map(({ pid }) => pid)).size).toBe(1);
});

test('the library tells its reads to onRead, and traceReads those of another clipd', async () => {
  const at = await clip.place('library');
  const events: ReadEvent[] = [];
  const mounted = await mountLibrary({
    archivePath: archive,
    mountPoint: at,
    onRead: (read) => 'path' in read && events.push(read),
  });
  await readFile(join(at, 'data/second'));
  await eventually(() => events.length > 0);
  expect(events[0]).toMatchObject({ path: '/data/second', source: 'registry', pid: process.pid });
  const { metrics } = await mounted.stats();
  expect(figure(metrics, 'clip_reads_total', { result: 'miss' })).toBeGreaterThan(0);
  await mounted.unmount();

  const client = new ClipdClient(clip.path('root'));
  const [mount] = await client.mounts();
  const seen: string[] = [];
  const trace = await traceReads(client, mount!, (read) => 'path' in read && seen.push(read.path ?? ''));
  await readFile(join(place, 'data/second'));
  await eventually(() => seen.includes('/data/second'));
  trace.stop();
  await trace.ended;
});

test('GET /metrics is what promtool takes without a word; its figures are those of stats and of GET /v1/metrics', async () => {
  const { type, text } = await fetchText({ socketPath: socket(), path: '/metrics' });
  expect(type).toMatch(/^text\/plain; version=0\.0\.4/);
  expect(text).toMatch(/^200 /);
  const said = execFileSync('promtool', ['check', 'metrics'], { input: text.replace(/^200 /, ''), encoding: 'utf8' });
  expect(said).toBe('');
  const stats = await clip.json<Stats>('stats');
  const json = JSON.parse((await fetchText({ socketPath: socket(), path: '/v1/metrics' })).text.slice(4)) as {
    metrics: Metric[];
  };
  for (const metrics of [stats.metrics, json.metrics]) {
    expect(figure(metrics, 'clip_mounts')).toBe(1);
    expect(figure(metrics, 'clip_source_bytes_total', { source: 'registry' })).toBeGreaterThan(500_000);
    expect(figure(metrics, 'clip_source_seconds', { source: 'registry' })).toBe(stats.counters.requests);
    expect(figure(metrics, 'clip_read_wait_seconds', { source: 'registry' })).toBeGreaterThan(0);
    expect(figure(metrics, 'clip_fuse_requests_total', { operation: 'read' })).toBeGreaterThan(0);
    expect(figure(metrics, 'clip_inflate_cpu_seconds_total')).toBeGreaterThan(0);
    expect(figure(metrics, 'clip_resident_memory_bytes', { process: 'keeper' })).toBeGreaterThan(1e6);
    expect(figure(metrics, 'clip_verification_failures_total', { kind: 'digest' })).toBe(0);
  }
});

test('every figure that a server counts is in the catalogue', async () => {
  const { counters, metrics } = await clip.json<Stats>('stats');
  const { CATALOGUE } = await import('../../src/metrics/index.js');
  const keys = new Set(CATALOGUE.flatMap(({ series }) => series.map(({ key }) => key)));
  // Sums of what the catalogue has by kind.
  const summed = new Set(['fuseRequests', 'fuseMisses', 'fuseSpanHits']);
  expect(Object.keys(counters).filter((key) => !keys.has(key) && !summed.has(key))).toEqual([]);
  // Without a shared cache its metrics are left out; all others are there.
  const missing = CATALOGUE.filter(({ name }) => !metrics.some((metric) => metric.name === name)).map(
    ({ name }) => name,
  );
  expect(missing.filter((name) => !name.startsWith('clip_content_cache'))).toEqual([
    'clip_first_exec_seconds',
    'clip_read_faults_total',
  ]);
});

test('stats is a table of at most 80 columns, of one mount or of all; --watch goes on until a signal', async () => {
  const { stdout } = await clip.ok('stats');
  for (const line of stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
  expect(stdout).toContain('waited longest in');
  expect(stdout).toContain('/data/first');
  expect(stdout).toMatch(/image +fetched +of it +touched +hits +p50 +p99/);
  expect((await clip.ok('stats', place)).stdout).toContain('app:one');
  expect(await clip.run(['stats', clip.path('root')])).toMatchObject({ code: 3, stdout: '' });
  const watched = await clip.run(['stats', '--watch', '--json'], {
    onStart: (child) => {
      let lines = 0;
      child.stdout!.on('data', (chunk: Buffer) => {
        lines += chunk.toString().split('\n').length - 1;
        if (lines >= 2) child.kill('SIGTERM');
      });
    },
  });
  expect(watched.code).toBe(0);
  const parsed = watched.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Stats);
  expect(parsed.length).toBeGreaterThanOrEqual(2);
  expect(parsed[0]!.connections[0]!.slowest.length).toBeGreaterThan(0);
});

test('the log level changes while clipd runs', async () => {
  const client = new ClipdClient(clip.path('root'));
  expect(await client.setLogLevel('debug')).toEqual({ level: 'debug', before: 'info' });
  expect(await client.setLogLevel('info')).toEqual({ level: 'info', before: 'debug' });
  await expect(client.setLogLevel('loud' as 'info')).rejects.toMatchObject({ code: 'USAGE' });
  expect(await clip.json('daemon', '--log-level', 'warn')).toMatchObject({ level: 'warn', before: 'info' });
  expect(await clip.json('daemon', '--log-level', 'info')).toMatchObject({ level: 'info', before: 'warn' });
  expect(readFileSync(clip.path('root', 'clipd.log'), 'utf8')).toContain('"log level changed"');
});

test('a log of more than 8 MiB becomes clipd.log.1, and keeper, server and the servers after it go on in another', async () => {
  const log = clip.path('root', 'clipd.log');
  writeFileSync(log, `${'{"msg":"a line like others"}\n'.repeat(320_000)}`, { flag: 'a' });
  await eventually(() => existsSync(`${log}.1`) && statSync(log).size < 100_000);
  expect(statSync(`${log}.1`).size).toBeGreaterThan(8 * 1024 * 1024);
  expect(readFileSync(`${log}.1`, 'utf8')).toContain('"log level changed"');
  // By the server that was told; a moment later than the keeper.
  await eventually(async () => {
    await clip.json('daemon', '--log-level', 'warn');
    await clip.json('daemon', '--log-level', 'info');
    return readFileSync(log, 'utf8').includes('"log level changed"');
  });
  const { serverPid } = await clip.json<{ serverPid: number }>('health');
  process.kill(serverPid, 'SIGKILL');
  await eventually(() => /the server process has ended.*"serving"/s.test(readFileSync(log, 'utf8')));
  expect(statSync(log).mode & 0o777).toBe(0o600);
});

test('daemon --metrics-addr serves the metrics and nothing else over TCP, on loopback unless told otherwise', async () => {
  const other = await Clipctl.create();
  const server = createServer();
  const port = await new Promise<number>((resolve) =>
    server.listen(0, '127.0.0.1', () => resolve((server.address() as { port: number }).port)),
  );
  try {
    const busy = await other.run(['daemon', '--metrics-addr', `127.0.0.1:${port}`]);
    expect(busy).toMatchObject({ code: 13, stdout: '' });
    expect(busy.stderr).toContain('EADDRINUSE');
    expect(await other.run(['daemon', '--metrics-addr', 'nonsense'])).toMatchObject({ code: 2 });
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
  const daemon = other.run(['daemon', '--metrics-addr', String(port)]);
  try {
    await eventually(async () => (await fetchText({ port, path: '/metrics' }).catch(() => null)) !== null);
    const { text } = await fetchText({ port, path: '/metrics' });
    expect(text).toMatch(/^clip_mounts 0$/m);
    expect((await fetchText({ port, path: '/v1/stats' })).text).toMatch(/^404 /);
    const listening = execFileSync('ss', ['-Hltn', `sport = :${port}`], { encoding: 'utf8' });
    expect(listening).toContain(`127.0.0.1:${port}`);
    expect(listening).not.toContain(`0.0.0.0:${port}`);
    // A server that takes over serves them, too.
    const before = (await other.json<{ serverPid: number }>('health')).serverPid;
    process.kill(before, 'SIGKILL');
    await eventually(async () =>
      ((await fetchText({ port, path: '/metrics' }).catch(() => null))?.text ?? '').includes(
        'clip_server_restarts_total 1',
      ),
    );
  } finally {
    await other.close();
    await daemon;
  }
}, 60_000);

test('diff names the layers and files in which two images differ', async () => {
  const two = clip.path('two.clip');
  await clip.ok('index', '--image', `${registry.host}/app:two`, '--out', two);
  const { added, removed, changed, layers } = await clip.json<ArchiveDiff>('diff', archive, two);
  expect(added.map(({ path }) => path)).toEqual(['/data/third']);
  expect(removed.map(({ path }) => path)).toEqual(['/data/second']);
  expect(changed).toEqual([]);
  expect([layers.shared.length, layers.added.length, layers.removed.length]).toEqual([0, 1, 1]);
  const { layers: described, largest } = await clip.json<ArchiveInfo>('inspect', archive);
  expect(described[0]).toMatchObject({ files: 2, fileBytes: 6_000_000 });
  expect(largest.map(({ path, size }) => [path, size]).sort()).toEqual([
    ['/data/first', 3_000_000],
    ['/data/second', 3_000_000],
  ]);
  expect((await clip.ok('inspect', archive)).stdout).toMatch(/largest\n +3\.0 MB {2}\/data\//);
  expect((await clip.ok('diff', archive, archive)).stdout).toContain('1 layer shared');
  expect((await clip.ok('diff', archive, two)).stdout).toMatch(/^\+ \/data\/third$/m);
});

test('a client of the trace that takes nothing delays no reader, and is told how much it missed', async () => {
  const client = new ClipdClient(clip.path('root'));
  const [mount] = await client.mounts();
  const stuck = request({
    socketPath: socket(),
    path: `/v1/trace?mountPoint=${encodeURIComponent(mount!.mountPoint)}`,
  });
  await new Promise<void>((resolve) => {
    stuck.on('response', (response) => {
      response.pause();
      resolve();
    });
    stuck.end();
  });
  await clip.ok('cache', 'prune', '--mounted');
  writeFileSync('/proc/sys/vm/drop_caches', '1');
  expect((await readFile(join(place, 'data/second'))).equals(Buffer.from(SECOND))).toBe(true);
  stuck.destroy();
});
