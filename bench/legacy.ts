// Archives of version 1: mounting and reading a local one, packing and unpacking, against cat and tar.
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { ClipdClient, prepareMount } from '../src/client/index.js';
import { Clipctl, PROGRAM, type ProgramOptions, type Ran, runProgram } from '../test/support/clipctl.js';
import { type BenchContext, bounded, dropCaches, median, type Row, rated, type SuiteResult } from './support.js';

/** 40,000 files, as a large image has, most of them small, and ten large ones: 1 GB. */
const FILES = 40_000;
const DIRECTORY_FILES = 200;
const SMALL_BYTES = 24_000;
const LARGE = 10;
const LARGE_BYTES = 52_000_000;
const ROUNDS = 3;

/** Bytes that do not compress to nothing, different in each file. */
function content(seed: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = (seed + 1) * 0x9e3779b1;
  for (let i = 0; i + 4 <= length; i += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes.writeUInt32LE(state, i);
  }
  return bytes;
}

function makeTree(root: string): number {
  let bytes = 0;
  const write = (name: string, seed: number, length: number): void => {
    writeFileSync(path.join(root, name), content(seed, length));
    bytes += length;
  };
  for (let i = 0; i < FILES - LARGE; i++) {
    if (i % DIRECTORY_FILES === 0) mkdirSync(path.join(root, `d${i / DIRECTORY_FILES}`), { recursive: true });
    write(`d${Math.floor(i / DIRECTORY_FILES)}/f${i}`, i, i % SMALL_BYTES);
  }
  mkdirSync(path.join(root, 'large'));
  for (let i = 0; i < LARGE; i++) write(`large/${i}`, i, LARGE_BYTES);
  return bytes;
}

async function shell(command: string): Promise<number> {
  const ran = await runProgram('sh', ['-ec', command]);
  if (ran.code !== 0) throw new Error(`${command}: ${ran.stderr}`);
  return ran.seconds;
}

/** Runs clipctl and watches its memory. */
async function watched(clip: Clipctl, args: readonly string[]): Promise<{ ran: Ran; peak: number }> {
  let peak = 0;
  let timer: NodeJS.Timeout | undefined;
  const onStart: ProgramOptions['onStart'] = (child) => {
    timer = setInterval(() => {
      try {
        const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
        peak = Math.max(peak, Number(/^VmHWM:\s+(\d+)/m.exec(status)?.[1] ?? 0) * 1024);
      } catch {
        // it has ended
      }
    }, 10);
  };
  const ran = await runProgram(process.execPath, [PROGRAM, ...args], { env: clip.env, onStart });
  clearInterval(timer);
  if (ran.code !== 0) throw new Error(`clipctl ${args.join(' ')}: ${ran.stderr}`);
  return { ran, peak };
}

export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const scratch = await ctx.scratch();
  const clip = await Clipctl.create({ parent: scratch });
  ctx.defer(() => clip.close());
  const tree = path.join(scratch, 'tree');
  mkdirSync(tree);
  const bytes = makeTree(tree);
  ctx.log(`a tree of ${FILES} files, ${Math.round(bytes / 1e6)} MB`);
  const archive = clip.path('tree.clip');
  const rows: Row[] = [];
  const wanted = (part: string): boolean => ctx.only?.includes(part) !== false;
  if (wanted('packing')) rows.push(...(await packing(clip, scratch, tree, archive, bytes)));
  else await clip.ok('create', tree, '--out', archive);
  if (wanted('mounting')) rows.push(...(await mounting(clip, archive)));
  if (wanted('reading')) rows.push(...(await reading(clip, archive)));
  return { title: `${FILES} files, ${Math.round(bytes / 1e6)} MB`, rows };
}

async function packing(clip: Clipctl, scratch: string, tree: string, archive: string, bytes: number): Promise<Row[]> {
  const tar = path.join(scratch, 'tree.tar');
  const [tarMakes, makes, tarUnpacks, unpacks]: number[][] = [[], [], [], []];
  let peak = 0;
  let unpackPeak = 0;
  for (let i = 0; i < ROUNDS; i++) {
    for (const out of ['x', 'y']) rmSync(path.join(scratch, out), { recursive: true, force: true });
    rmSync(tar, { force: true });
    rmSync(archive, { force: true });
    await shell('sync');
    tarMakes!.push(await shell(`tar -cf ${tar} -C ${tree} .`));
    await shell('sync');
    const made = await watched(clip, ['create', tree, '--out', archive]);
    makes!.push(made.ran.seconds);
    peak = Math.max(peak, made.peak);
    await shell('sync');
    tarUnpacks!.push(await shell(`mkdir ${scratch}/x && tar -xf ${tar} -C ${scratch}/x`));
    await shell('sync');
    const unpacked = await watched(clip, ['extract', '--clip', archive, '--out', path.join(scratch, 'y')]);
    unpacks!.push(unpacked.ran.seconds);
    unpackPeak = Math.max(unpackPeak, unpacked.peak);
  }
  const rate = (seconds: number[]): number => bytes / median(seconds) / 1e6;
  return [
    rated(
      'createArchive',
      rate(makes!),
      'MB/s',
      { value: rate(makes!) / rate(tarMakes!), to: 'tar -cf' },
      { atLeast: 0.7 },
    ),
    bounded('memory of createArchive', peak / 1e6, 'MB', { atMost: 200 }),
    rated(
      'extractArchive',
      rate(unpacks!),
      'MB/s',
      { value: rate(unpacks!) / rate(tarUnpacks!), to: 'tar -xf' },
      { atLeast: 0.7 },
    ),
    { metric: 'memory of extractArchive', value: unpackPeak / 1e6, unit: 'MB' },
  ];
}

/** With clipd running, as a daemon of containers has it. */
async function mounting(clip: Clipctl, archive: string): Promise<Row[]> {
  const other = clip.path('other.clip');
  const small = clip.path('small');
  mkdirSync(small, { recursive: true });
  await clip.ok('create', small, '--out', other);
  await clip.ok('mount', '--clip', other, '--at', await clip.place('other'));
  const client = new ClipdClient(clip.path('root'));
  const place = await clip.place('m');
  const times: number[] = [];
  for (let i = 0; i < ROUNDS + 2; i++) {
    const started = performance.now();
    await client.mount(await prepareMount({ archivePath: archive, mountPoint: place }, {}));
    await stat(place);
    times.push(performance.now() - started);
    await client.unmount({ mountPoint: place, mode: 'normal' });
  }
  const [first, ...again] = times;
  return [
    { metric: 'the first mount ever of the archive', value: first!, unit: 'ms', note: 'its index becomes a tree' },
    bounded('mount, with clipd running', median(again), 'ms', { atMost: 250 }, 'the tree is kept'),
  ];
}

async function reading(clip: Clipctl, archive: string): Promise<Row[]> {
  const place = await clip.place('m');
  const size = statSync(archive).size;
  const large = LARGE * LARGE_BYTES;
  const [cats, firsts, seconds, all]: number[][] = [[], [], [], []];
  for (let i = 0; i < ROUNDS; i++) {
    dropCaches();
    cats!.push(size / (await shell(`cat ${archive} > /dev/null`)));
    await clip.ok('mount', '--clip', archive, '--at', place);
    dropCaches();
    firsts!.push(large / (await shell(`cat ${place}/large/* > /dev/null`)));
    seconds!.push(large / (await shell(`cat ${place}/large/* > /dev/null`)));
    dropCaches();
    all!.push(FILES / (await shell(`find ${place} -type f -path "*/d*" -exec cat {} + > /dev/null`)));
    await clip.ok('umount', place);
  }
  const first = median(firsts!);
  return [
    rated(
      'first touch of large files',
      first / 1e6,
      'MB/s',
      { value: first / median(cats!), to: 'cat of the archive' },
      { atLeast: 0.8 },
    ),
    { metric: 'the same again', value: median(seconds!) / 1e6, unit: 'MB/s', note: 'from the page cache' },
    { metric: 'first touch of all small files', value: median(all!), unit: 'files/s' },
  ];
}
