// Indexing from a registry on loopback against `gzip -dc` of the same layers in the same run; size and memory against budget.
import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import path from 'node:path';
import { crc32 } from 'node:zlib';
import { deflateSection } from '../src/archive/index.js';
import { ArchiveFile } from '../src/check/index.js';
import { ErofsReader, writeErofs } from '../src/erofs/index.js';
import { GzipIndexer } from '../src/gzip/index.js';
import { EntryColumns, TarParser } from '../src/tar/index.js';
import { TreeBuilder } from '../src/tree/index.js';
import {
  type BenchContext,
  type BenchImage,
  bounded,
  median,
  type Row,
  rated,
  run as runProgram,
  type SuiteResult,
} from './support.js';

const ROUNDS = 5;
const CLIPCTL = path.join(import.meta.dirname, '../../bin/clipctl.js');
/** docs/architecture.md, "What an index build goes through". */
const BYTES_PER_FILE = 32;
const SHARE_OF_COMPRESSED = 0.0035;
const PEAK_BYTES = 300e6;
const PEAK_PER_FILE = 400;
/** The mean window, for text-heavy layers too. */
const MAX_MEAN_WINDOW = 4000;

interface IndexOutput {
  readonly milliseconds: number;
  readonly inodes: number;
  readonly size: number;
}

/** A whole `clipctl index`, start of the process included. */
async function indexOnce(
  image: BenchImage,
  out: string,
  nodeOptions: readonly string[] = [],
): Promise<{ seconds: number; output: IndexOutput; stderr: string }> {
  const started = performance.now();
  // A layer that is known would not be read.
  const args = ['index', '--fresh', '--json', '--checkpoint', '2', '--image', image.reference, '--out', out];
  // As a user runs it, but for options of Node.
  const program = nodeOptions.length === 0 ? [CLIPCTL] : [process.execPath, ...nodeOptions, CLIPCTL];
  const { stdout, stderr } = await runProgram(program[0]!, [...program.slice(1), ...args]);
  return { seconds: (performance.now() - started) / 1000, output: JSON.parse(stdout) as IndexOutput, stderr };
}

/** Bytes. The process prints its own peak when it ends: from outside, only polling would find it. */
async function peakMemory(image: BenchImage, out: string): Promise<number> {
  const say = 'process.on("exit",()=>process.stderr.write("peak "+process.resourceUsage().maxRSS))';
  // Not in a timed run, because every thread of the process loads this first.
  const { stderr } = await indexOnce(image, out, ['--import', `data:text/javascript,${encodeURIComponent(say)}`]);
  return Number(/peak (\d+)/.exec(stderr)?.[1]) * 1024;
}

async function gzipOnce(layers: readonly string[]): Promise<number> {
  const started = performance.now();
  for (const layer of layers) await runProgram('sh', ['-c', 'exec gzip -dc "$0" >/dev/null', layer]);
  return (performance.now() - started) / 1000;
}

async function measure(
  name: string,
  image: BenchImage,
  directory: string,
  log: (line: string) => void,
): Promise<Row[]> {
  const out = path.join(directory, `${name}.clip`);
  const ours: number[] = [];
  const gzip: number[] = [];
  const peak = await peakMemory(image, out);
  let output: IndexOutput | null = null;
  for (let round = 0; round < ROUNDS; round++) {
    gzip.push(await gzipOnce(image.layers));
    const once = await indexOnce(image, out);
    ours.push(once.seconds);
    output = once.output;
    log(`${name}: index ${once.seconds.toFixed(2)} s, gzip -dc ${gzip.at(-1)!.toFixed(2)} s`);
  }
  const { inodes, size } = output!;
  const file = ArchiveFile.open(out);
  const windows = file.archive.layers.flatMap(({ table }) => [...table.windowLength].filter((length) => length > 0));
  const mean = windows.length === 0 ? 0 : windows.reduce((a, b) => a + b, 0) / windows.length;
  const tree = file.archive.sections.find((section) => section.name === 'tree')!;
  file.close();
  const opens: number[] = [];
  for (let i = 0; i < 2 * ROUNDS; i++) {
    const started = performance.now();
    const opened = ArchiveFile.open(out);
    new ErofsReader(opened.archive.tree);
    opens.push(performance.now() - started);
    opened.close();
  }
  const budget = BYTES_PER_FILE * inodes + SHARE_OF_COMPRESSED * image.compressedBytes;
  const best = Math.min(...ours);
  return [
    rated(`${name}: index, wall clock`, best, 's', { value: Math.min(...gzip) / best, to: 'gzip -dc' }, { atLeast: 3 }),
    { metric: `${name}: compressed`, value: image.compressedBytes / 1e6 / best, unit: 'MB/s' },
    bounded(`${name}: peak memory`, peak / 1e6, 'MB', {
      atMost: Math.round((PEAK_BYTES + PEAK_PER_FILE * inodes) / 1e6),
    }),
    rated(`${name}: archive`, size / 1e6, 'MB', { value: size / budget, to: 'budget' }, { atMost: 1 }),
    { metric: `${name}: tree, stored`, value: tree.storedLength / inodes, unit: 'B/file' },
    bounded(`${name}: mean window`, mean, 'B', { atMost: MAX_MEAN_WINDOW }),
    {
      metric: `${name}: archive opened and checked`,
      value: median(opens),
      unit: 'ms',
      target: '≤ 15 ms at 40,000 files',
    },
  ];
}

function eachChunk(file: string, use: (chunk: Uint8Array) => void): void {
  const chunk = Buffer.allocUnsafeSlow(1 << 20);
  const fd = openSync(file, 'r');
  try {
    for (let n = readSync(fd, chunk); n > 0; n = readSync(fd, chunk)) use(chunk.subarray(0, n));
  } finally {
    closeSync(fd);
  }
}

/** Each stage alone, on one core: MB of its input per second. */
async function stages(layer: string, tar: string): Promise<Row[]> {
  const rows: Row[] = [];
  const stage = (metric: string, bytes: number, work: () => void, note?: string): void => {
    const started = performance.now();
    work();
    const value = bytes / 1e3 / (performance.now() - started);
    rows.push({ metric: `stage: ${metric}`, value, unit: 'MB/s', ...(note === undefined ? {} : { note }) });
  };
  const [compressed, raw] = [statSync(layer).size, statSync(tar).size];
  stage('read', compressed, () => eachChunk(layer, () => {}));
  stage('sha256 of the blob', compressed, () => {
    const hash = createHash('sha256');
    eachChunk(layer, (chunk) => hash.update(chunk));
  });
  stage('inflate, checkpoints (output)', raw, () => {
    const indexer = new GzipIndexer({ spanBytes: 2 << 20 }, { output() {}, checkpoint() {}, member() {} });
    eachChunk(layer, (chunk) => indexer.push(chunk));
    indexer.finish();
  });
  eachChunk(tar, () => {}); // from the page cache on, as the layer is by now
  stage('CRC-32', raw, () => eachChunk(tar, (chunk) => void crc32(chunk)));
  const entries = new EntryColumns();
  stage('tar headers', raw, () => {
    const parser = new TarParser({ entries });
    eachChunk(tar, (chunk) => parser.push(chunk));
    parser.finish();
  });
  const builder = new TreeBuilder();
  let image: Uint8Array = new Uint8Array(0);
  const perEntry = (metric: string, work: () => void): void => {
    const started = performance.now();
    work();
    rows.push({
      metric: `stage: ${metric}`,
      value: performance.now() - started,
      unit: 'ms',
      note: `${entries.count} entries`,
    });
  };
  perEntry('tree', () => builder.applyLayer(0, entries));
  perEntry('EROFS', () => {
    image = writeErofs(builder.finish(), [{ tag: 'bench', blocks: Math.ceil(raw / 512) }]).image;
  });
  const started = performance.now();
  await deflateSection(image);
  const note = `${entries.count} entries, on the threads of the pool`;
  rows.push({ metric: 'stage: deflate the tree', value: performance.now() - started, unit: 'ms', note });
  return rows;
}

export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const directory = await ctx.scratch();
  const python = await ctx.python();
  const node = await ctx.node();
  const rows = [
    ...(await measure('python', python, directory, ctx.log)),
    ...(await measure('node', node, directory, ctx.log)),
    ...(await stages(python.layers[0]!, python.tars[0]!)),
  ];
  return { title: `registry on loopback, checkpoints every 2 MiB, best of ${ROUNDS}`, rows };
}
