// The inflate kernel against the others, interleaved, best of a few rounds. Processor seconds, all threads of a contestant
// together: Node's zlib streams use two, and the question is the work of one core.
import { closeSync, createReadStream, createWriteStream, openSync, readSync, statSync } from 'node:fs';
import path from 'node:path';
import { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip, createGzip } from 'node:zlib';
import { GzipIndexer, KernelMemory, MemoryCrc32, OutputSums } from '../src/gzip/index.js';
import { PRIVATE_SHAPE } from '../src/gzip/memory.js';
import { GzipStream } from '../src/gzip/stream.js';
import { type BenchContext, type Row, rated, run as runProgram, type SuiteResult } from './support.js';

const CHUNK = 256 << 10;

function readChunks(file: string, onChunk: (chunk: Uint8Array) => void): void {
  const chunk = Buffer.allocUnsafeSlow(CHUNK);
  const fd = openSync(file, 'r');
  try {
    for (let n = readSync(fd, chunk); n > 0; n = readSync(fd, chunk)) onChunk(chunk.subarray(0, n));
  } finally {
    closeSync(fd);
  }
}

/** Inflation alone: the speed of a kernel. */
function kernelOnly(file: string): number {
  const stream = new GzipStream({ output: () => {}, limit: (produced) => produced, trailer: () => {} });
  stream.restart(Number.POSITIVE_INFINITY);
  readChunks(file, (chunk) => stream.push(chunk));
  stream.end();
  return stream.produced;
}

/** Everything that the index build needs of it: CRCs of spans and members, checkpoints and their sparse windows every 2 MiB. */
function indexer(file: string): number {
  const memory = KernelMemory.make(PRIVATE_SHAPE, false);
  const sums = new OutputSums(new MemoryCrc32(memory, 0).sum);
  const indexer = new GzipIndexer(
    { spanBytes: 2 << 20, memory },
    {
      output: (view) => sums.push(view),
      boundary: () => void sums.endSpan(),
      checkpoint: () => {},
      member: (trailer) => sums.endMember(trailer),
    },
  );
  readChunks(file, (chunk) => indexer.push(chunk));
  return indexer.finish().layerSize;
}

/** `chunk` bytes at a time in and out; undefined: the defaults of createReadStream() and createGunzip(), 64 KiB and 16 KiB. */
async function nodeZlib(file: string, chunk?: number): Promise<void> {
  const sink = new Writable({ highWaterMark: 1 << 20, write: (_chunk, _encoding, done) => done() });
  const source = createReadStream(file, chunk === undefined ? {} : { highWaterMark: chunk });
  await pipeline(source, createGunzip(chunk === undefined ? {} : { chunkSize: chunk }), sink);
}

/** User and system time of `program -dc file`, as the shell counts it. */
async function childSeconds(program: string, file: string): Promise<number> {
  const script = 'TIMEFORMAT="%U %S"; time "$0" -dc "$1" >/dev/null';
  const { stderr } = await runProgram('bash', ['-c', script, program, file]);
  const [user, system] = stderr.trim().split(' ').map(Number);
  return user! + system!;
}

interface Measured {
  bytes: number;
  /** Processor seconds, the best of the rounds. */
  kernel: number;
  indexer: number;
  zlib: number;
  zlibTuned: number;
  igzip: number;
  gzip: number;
}

async function measure(file: string, rounds: number): Promise<Measured> {
  const best = {
    kernel: Infinity,
    indexer: Infinity,
    zlib: Infinity,
    zlibTuned: Infinity,
    igzip: Infinity,
    gzip: Infinity,
  };
  const sample = async (name: keyof typeof best, work: () => Promise<number> | Promise<void> | void): Promise<void> => {
    const start = process.cpuUsage();
    const child = await work();
    const used = process.cpuUsage(start);
    best[name] = Math.min(best[name], typeof child === 'number' ? child : (used.user + used.system) / 1e6);
  };
  let bytes = 0;
  for (let round = 0; round < rounds; round++) {
    await sample('kernel', () => {
      bytes = kernelOnly(file);
    });
    await sample('igzip', () => childSeconds('igzip', file));
    await sample('indexer', () => void indexer(file));
    await sample('zlib', () => nodeZlib(file));
    await sample('zlibTuned', () => nodeZlib(file, CHUNK));
    if (round === 0) await sample('gzip', () => childSeconds('gzip', file));
  }
  return { bytes, ...best };
}

function rows(what: string, m: Measured, targets: { zlib: number; igzip?: number }): Row[] {
  const speed = (seconds: number): number => m.bytes / seconds / 1e6;
  const shown = (metric: string, seconds: number): Row => ({
    metric: `${what}: ${metric}`,
    value: speed(seconds),
    unit: 'MB/s',
  });
  const against = (metric: string, seconds: number, other: number, to: string): Row => ({
    ...shown(metric, seconds),
    ratio: { value: other / seconds, to },
  });
  const kernel = `${what}: kernel`;
  return [
    rated(kernel, speed(m.kernel), 'MB/s', { value: m.zlib / m.kernel, to: 'Node zlib' }, { atLeast: targets.zlib }),
    ...(targets.igzip === undefined
      ? []
      : [
          rated(
            kernel,
            speed(m.kernel),
            'MB/s',
            { value: m.igzip / m.kernel, to: 'igzip -dc' },
            { atLeast: targets.igzip },
          ),
        ]),
    against('kernel', m.kernel, m.zlibTuned, 'Node zlib in 256 KiB chunks'),
    against('kernel, CRCs and checkpoints', m.indexer, m.zlibTuned, 'Node zlib in 256 KiB chunks'),
    against('kernel, CRCs and checkpoints', m.indexer, m.gzip, 'gzip -dc'),
    shown('Node zlib, createGunzip() as it comes', m.zlib),
    shown('Node zlib in 256 KiB chunks', m.zlibTuned),
    shown('igzip -dc', m.igzip),
    shown('gzip -dc', m.gzip),
  ];
}

async function compress(source: Readable, to: string, level: number): Promise<void> {
  await pipeline(source, createGzip({ level }), createWriteStream(to));
}

/** 256 MiB of log lines that differ in a counter only. */
function* logLines(): Generator<Buffer> {
  for (let block = 0; block < 256; block++) {
    const lines: string[] = [];
    for (let length = 0, i = 0; length < 1 << 20; i++) {
      const line = `2026-01-01T00:00:00.000Z info request=${block}${i} GET /health 200 from 127.0.0.1 in 0 ms, nothing to report\n`;
      lines.push(line);
      length += line.length;
    }
    yield Buffer.from(lines.join(''));
  }
}

export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const image = await ctx.python();
  const layer = image.layers[0]!;
  const scratch = await ctx.scratch();
  const stored = path.join(scratch, 'stored.gz');
  const repetitive = path.join(scratch, 'repetitive.gz');
  await compress(createReadStream(image.tars[0]!, { end: (256 << 20) - 1 }), stored, 0);
  await compress(Readable.from(logLines()), repetitive, 6);
  return {
    title: `one layer, ${(statSync(layer).size / 1e6).toFixed(0)} MB compressed; 256 MiB stored; 256 MiB of log lines`,
    rows: [
      ...rows('layer', await measure(layer, 4), { zlib: 2, igzip: 0.9 }),
      ...rows('stored', await measure(stored, 4), { zlib: 2.5 }),
      ...rows('repetitive', await measure(repetitive, 4), { zlib: 2.5 }),
    ],
  };
}
