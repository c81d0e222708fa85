// What clip costs as images grow: by the number of files, and by the size of a layer.
import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { ClipdClient, prepareMount } from '../src/client/index.js';
import { Clipctl } from '../test/support/clipctl.js';
import { layerLike } from '../test/support/gzip.js';
import { header } from '../test/support/tar.js';
import { type BenchContext, median, type Row, type SuiteResult } from './support.js';

/** Runs of each size but the largest. */
const RUNS = 3;
const LOOKUPS = 2000;
const NAMES_OF_DIRECTORY = 60;

/** An image of one layer, and a file that is in it, by number. */
interface Scaled {
  readonly name: string;
  readonly reference: string;
  readonly runs: number;
  readonly fileCount: number;
  file(i: number): string;
}

interface Measured {
  index: number[];
  archive: number;
  memory: number[];
  mount: number[];
  lookup: number[];
  resident: number;
}

/** An image layout whose only layer is what `write` puts out. */
async function layoutOf(
  directory: string,
  write: (put: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
): Promise<string> {
  const blobs = path.join(directory, 'blobs/sha256');
  mkdirSync(blobs, { recursive: true });
  const hash = createHash('sha256');
  let size = 0;
  const temporary = path.join(blobs, 'layer');
  const stream = createWriteStream(temporary, { highWaterMark: 8 << 20 });
  await write(async (bytes) => {
    hash.update(bytes);
    size += bytes.length;
    if (!stream.write(bytes)) await once(stream, 'drain');
  });
  stream.end();
  await once(stream, 'close');
  const digest = hash.digest('hex');
  renameSync(temporary, path.join(blobs, digest));
  const blob = (value: object, mediaType: string): object => {
    const bytes = Buffer.from(JSON.stringify(value));
    const of = createHash('sha256').update(bytes).digest('hex');
    writeFileSync(path.join(blobs, of), bytes);
    return { mediaType, digest: `sha256:${of}`, size: bytes.length };
  };
  // The layer's own diff ID is not known here, and no index build asks for it.
  const rootfs = { type: 'layers', diff_ids: [`sha256:${digest}`] };
  const config = blob(
    { architecture: 'amd64', os: 'linux', config: {}, rootfs },
    'application/vnd.oci.image.config.v1+json',
  );
  const layers = [{ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: `sha256:${digest}`, size }];
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const manifest = blob({ schemaVersion: 2, mediaType, config, layers }, mediaType);
  const annotations = { 'org.opencontainers.image.ref.name': '1' };
  const index = { schemaVersion: 2, manifests: [{ ...manifest, annotations }] };
  writeFileSync(path.join(directory, 'index.json'), JSON.stringify(index));
  writeFileSync(path.join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  return `oci:${directory}:1`;
}

const fileName = (i: number): string =>
  `app/packages/package-${Math.floor(i / NAMES_OF_DIRECTORY)}/file-${i % NAMES_OF_DIRECTORY}.js`;

/** Empty files, some at a time: a layer of a million is half a gigabyte. */
async function manyFiles(directory: string, count: number): Promise<string> {
  const AT_ONCE = 4096;
  return layoutOf(directory, async (put) => {
    for (let from = 0; from < count; from += AT_ONCE) {
      const headers = Array.from({ length: Math.min(AT_ONCE, count - from) }, (_, i) =>
        header({ name: fileName(from + i), size: 0, mtime: 1_700_000_000, uid: 1000 }),
      );
      await put(gzipSync(Buffer.concat(headers), { level: 1 }));
    }
    await put(gzipSync(Buffer.alloc(1024)));
  });
}

const PART = 64 << 20;

/** Files of 64 MiB of what layers have, the same bytes again and again. */
async function largeLayer(directory: string, bytes: number, content: Buffer, part: Buffer): Promise<[string, number]> {
  let files = 0;
  const reference = await layoutOf(directory, async (put) => {
    for (let left = bytes; left > 0; files++) {
      // Whole files, and a part of one at the end, in blocks of a tar.
      const size = Math.min(PART, Math.ceil(((left / part.length) * PART) / 512) * 512);
      await put(gzipSync(header({ name: fileName(files), size, mtime: 1_700_000_000, uid: 1000 })));
      await put(size === PART ? part : gzipSync(content.subarray(0, size)));
      left -= part.length;
    }
    await put(gzipSync(Buffer.alloc(1024)));
  });
  return [reference, files];
}

/** The peak of a process's resident memory, by looking again and again: it only grows. */
function watchPeak(pid: number): () => number {
  let peak = 0;
  const look = (): void => {
    try {
      const [, kib = '0'] = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1')) ?? [];
      peak = Math.max(peak, Number(kib) * 1024);
    } catch {
      // It has ended.
    }
  };
  const timer = setInterval(look, 10);
  return () => {
    clearInterval(timer);
    return peak;
  };
}

async function measure(ctx: BenchContext, scratch: string, image: Scaled): Promise<Measured> {
  ctx.log(image.name);
  const clip = await Clipctl.create({ parent: scratch });
  ctx.defer(() => clip.close());
  const archivePath = clip.path('image.clip');
  const measured: Measured = { index: [], archive: 0, memory: [], mount: [], lookup: [], resident: 0 };
  for (let run = 0; run < image.runs; run++) {
    let peak = (): number => 0;
    const args = ['index', image.reference, '-o', archivePath, '--fresh'];
    const onStart = (child: ChildProcess): void => {
      peak = watchPeak(child.pid!);
    };
    const ran = await clip.run(args, { onStart });
    if (ran.code !== 0) throw new Error(`index ${image.name}: ${ran.stderr}`);
    measured.index.push(ran.seconds);
    measured.memory.push(peak() / 1e6);
  }
  measured.archive = statSync(archivePath).size / 1e6;
  const client = new ClipdClient(clip.path('root'));
  const mountPoint = await clip.place('mnt');
  await clip.ok('mount', archivePath, mountPoint);
  const other = await clip.place('other');
  const small = clip.path('small.clip');
  const smallLayout = path.join(clip.directory, 'small');
  await clip.ok('index', await manyFiles(smallLayout, 10), '-o', small);
  await clip.ok('mount', small, other);
  for (let run = 0; run < RUNS; run++) {
    await client.unmount({ mountPoint, mode: 'normal' });
    const request = await prepareMount({ archivePath, mountPoint }, {});
    const started = performance.now();
    await client.mount(request);
    await stat(path.join(mountPoint, image.file(0)));
    measured.mount.push(performance.now() - started);
    measured.lookup.push(await lookUp(mountPoint, image, run));
  }
  measured.resident = (await client.stats()).memory.serverRss / 1e6;
  await clip.close();
  return measured;
}

/** Microseconds for a file that was not looked up before, its directories included. */
async function lookUp(mountPoint: string, image: Scaled, run: number): Promise<number> {
  const count = Math.min(LOOKUPS, image.fileCount);
  const started = performance.now();
  for (let i = 0; i < count; i++) {
    await stat(path.join(mountPoint, image.file((run + i * 7919) % image.fileCount)));
  }
  return ((performance.now() - started) * 1000) / count;
}

function rowsOf(name: string, { index, archive, memory, mount, lookup, resident }: Measured): Row[] {
  const row = (metric: string, values: readonly number[], unit: string): Row => ({
    metric: `${name}: ${metric}`,
    value: median(values),
    unit,
    ...(values.length > 1 ? { spread: [Math.min(...values), Math.max(...values)] } : {}),
  });
  return [
    row('index', index, 's'),
    row('memory of index', memory, 'MB'),
    row('archive', [archive], 'MB'),
    row('mount', mount, 'ms'),
    row('lookup', lookup, 'µs'),
    row('server', [resident], 'MB'),
  ];
}

/** By the number of files, all of them empty. */
export async function runFiles(ctx: BenchContext): Promise<SuiteResult> {
  const scratch = await ctx.scratch();
  const rows: Row[] = [];
  for (const [name, count] of [
    ['1 k files', 1000],
    ['10 k files', 10_000],
    ['100 k files', 100_000],
    ['1 M files', 1_000_000],
  ] as const) {
    const directory = path.join(scratch, `files-${count}`);
    const reference = await manyFiles(directory, count);
    const runs = count < 1e6 ? RUNS : 1;
    const measured = await measure(ctx, scratch, { name, reference, runs, fileCount: count, file: fileName });
    rmSync(directory, { recursive: true, force: true });
    rows.push(...rowsOf(name, measured));
  }
  return { title: 'one layer of empty files, image layout on disk', rows };
}

/** Megabytes, and whether a layer of them is measured only when it is asked for (`--only 20000`: 20 GB of disk, some six minutes). */
const SIZES = [
  [1, '1 MB'],
  [10, '10 MB'],
  [100, '100 MB'],
  [1000, '1 GB'],
  [4000, '4 GB'],
  [20_000, '20 GB'],
] as const;
const MAX_UNASKED = 4000;

/** By the compressed size of the layer. Each layer is written as a stream, and removed before the next. */
export async function runBytes(ctx: BenchContext): Promise<SuiteResult> {
  const scratch = await ctx.scratch();
  const rows: Row[] = [];
  const content = layerLike(PART, 1);
  const part = gzipSync(content);
  for (const [megabytes, name] of SIZES) {
    if (!(ctx.only?.includes(String(megabytes)) ?? megabytes <= MAX_UNASKED)) continue;
    const bytes = megabytes * 1e6;
    const directory = path.join(scratch, `bytes-${bytes}`);
    const [reference, fileCount] = await largeLayer(directory, bytes, content, part);
    const runs = bytes < 1e9 ? RUNS : 1;
    const measured = await measure(ctx, scratch, { name, reference, runs, fileCount, file: fileName });
    rmSync(directory, { recursive: true, force: true });
    rows.push(...rowsOf(name, measured));
  }
  if (rows.length === 0) throw new Error(`--only MEGABYTES: ${SIZES.map(([size]) => size).join(', ')}`);
  return { title: `one gzip layer of files of 64 MiB, image layout on disk`, rows };
}
