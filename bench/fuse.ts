/**
 * The FUSE plane by itself, against libfuse's passthrough_ll (C, `-o cache=always`) serving the same files from ext4, and
 * against ext4. Everything is local: the layer's tar stands for a complete span cache. Both sides' files are in the page cache
 * unless caches are dropped, and each cold sample is a fresh mount. Rounds take all contenders in turn, so that other work of
 * the machine affects them alike.
 */
import { closeSync, createReadStream, existsSync, mkdirSync, openSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { writeErofs } from '../src/erofs/index.js';
import { FusePool } from '../src/fuse/index.js';
import { closeFd, mountFuse, openFuseDevice, readMountInfo, unmount } from '../src/linux/index.js';
import { EntryColumns, TarParser } from '../src/tar/index.js';
import { TreeBuilder } from '../src/tree/index.js';
import { sharedCopy, sharedLayer } from '../test/support/fuse-plane.js';
import { compile, findLs, type Probe, probeTools, shuffled, walk } from './file-systems.js';
import { measureHits } from './heap-profile.js';
import {
  type BenchContext,
  bounded,
  dropCaches,
  median,
  type Row,
  rated,
  run as runProgram,
  type SuiteResult,
} from './support.js';

const EXAMPLE = '/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c';
const root = fileURLToPath(new URL('../..', import.meta.url));
const ROUNDS = 7;
const SPAN = 2 << 20;
/** passthrough_ll holds a descriptor per file: part of the tree, where the limit of descriptors is small. */
const SUBTREE = 'usr/lib';
const LARGE = 4 << 20;
const READERS = 16;
/** Readers that all miss at once. */
const CROWD = 64;
const READS = 20_000;
const WORKLOAD = ['python3', '-c', 'import numpy, scipy, pandas'];
/** Ways to start it. Linux schedules sessions as groups (autogroup), and clipd has a session of its own, so users get the second way. */
const SESSIONS = [
  { name: 'same session', command: ['chroot'] },
  { name: 'own session', command: ['setsid', '--wait', 'chroot'] },
] as const;

/** A file system to measure: mounts freshly, gives the directory, and unmounts. */
interface Contender {
  readonly name: string;
  mount(): Promise<string>;
  unmount(): Promise<void>;
}

async function tools(directory: string): Promise<{ passthrough: string; probe: Probe }> {
  const packages = ['gcc', 'libc6-dev', 'pkg-config', 'libfuse3-dev', 'fuse3'];
  await runProgram(path.join(root, 'scripts/debian-packages.sh'), packages);
  if (!existsSync(EXAMPLE))
    throw new Error(`${EXAMPLE} is missing: libfuse3-dev ships it (dpkg may be told to leave /usr/share/doc out)`);
  const passthrough = path.join(directory, 'passthrough_ll');
  const config = await runProgram('pkg-config', ['--cflags', '--libs', 'fuse3']);
  await compile(passthrough, EXAMPLE, config.stdout.trim().split(/\s+/));
  return { passthrough, probe: await probeTools(directory) };
}

/** Our plane, with a pool that outlives its mounts, as clipd's does. */
async function clip(ctx: BenchContext, scratch: string, tar: string): Promise<Contender> {
  const entries = new EntryColumns();
  const parser = new TarParser({ entries });
  for await (const chunk of createReadStream(tar, { highWaterMark: 1 << 20 })) parser.push(chunk as Buffer);
  parser.finish();
  const builder = new TreeBuilder();
  builder.applyLayer(0, entries);
  const size = statSync(tar).size;
  const tree = sharedCopy(writeErofs(builder.finish(), [{ tag: 'layer', blocks: Math.ceil(size / 512) }]).image);
  const layer = sharedLayer(0, openSync(tar, 'r'), size, SPAN);
  let gone = (): void => {};
  const pool = new FusePool({
    onMiss: ({ nid }) => {
      throw new Error(`a miss (nid ${nid}) where everything is cached`);
    },
    onInterrupt: () => false,
    onGone: () => gone(),
  });
  await pool.complete();
  const target = path.join(scratch, 'clip');
  mkdirSync(target);
  let id = 0;
  let fd = -1;
  const contender: Contender = {
    name: 'clip',
    mount: async () => {
      fd = openFuseDevice();
      mountFuse({ fd, target, source: 'clip-bench', subtype: 'clip' });
      await pool.attach({ id: ++id, fd, tree, layers: [layer], placement: null, resumed: false });
      return target;
    },
    unmount: async () => {
      const ended = new Promise<void>((resolve) => {
        gone = resolve;
      });
      unmount(target);
      await ended;
      await pool.detach(id);
      closeFd(fd);
    },
  };
  ctx.defer(async () => {
    if (readMountInfo().some((mount) => mount.mountPoint === target)) unmount(target, 'lazy');
    await pool.close();
    closeSync(layer.fd);
  });
  return contender;
}

function passthrough(
  ctx: BenchContext,
  program: string,
  source: string,
  target: string,
  flag: string | null,
): Contender {
  mkdirSync(target);
  const mounted = (): boolean => readMountInfo().some((mount) => mount.mountPoint === target);
  ctx.defer(() => {
    if (mounted()) unmount(target, 'lazy');
  });
  return {
    name: flag === null ? 'passthrough_ll' : `passthrough_ll ${flag}`,
    mount: async () => {
      // It goes to the background by itself once it has mounted.
      await runProgram(program, ['-o', `source=${source},cache=always`, ...(flag === null ? [] : [flag]), target]);
      return target;
    },
    unmount: async () => {
      unmount(target);
      while (mounted()) await new Promise((resolve) => setTimeout(resolve, 5));
    },
  };
}

type Samples = Map<string, number[]>;

/** Takes all contenders in turn, each freshly mounted. */
async function rounds(
  ctx: BenchContext,
  contenders: readonly Contender[],
  what: string,
  sample: (directory: string, name: string) => Promise<number>,
): Promise<Samples> {
  ctx.log(what);
  const samples: Samples = new Map(contenders.map(({ name }) => [name, []]));
  // The first round warms compiled code, and the page cache of the files behind.
  for (let round = 0; round <= ROUNDS; round++) {
    for (const contender of contenders) {
      const directory = await contender.mount();
      try {
        const value = await sample(directory, contender.name);
        if (round > 0) samples.get(contender.name)!.push(value);
      } finally {
        await contender.unmount();
      }
    }
  }
  return samples;
}

/** Our median, and for each control a row with the median of the ratios of each round (`ours`/`theirs`). */
function compare(
  metric: string,
  samples: Samples,
  unit: string,
  bound: { atLeast: number } | { atMost: number },
  note?: string,
): Row[] {
  const ours = samples.get('clip')!;
  return [...samples]
    .filter(([name]) => name !== 'clip')
    .map(([name, theirs]) => {
      const ratio = { value: median(ours.map((value, i) => value / theirs[i]!)), to: name };
      return rated(metric, median(ours), unit, ratio, bound, note);
    });
}

export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const image = await ctx.python();
  const scratch = await ctx.scratch();
  const { passthrough: program, probe } = await tools(scratch);
  const tree = path.join(scratch, 'tree');
  mkdirSync(tree);
  ctx.log('unpacking the image on ext4');
  await runProgram('tar', ['-xf', image.tars[0]!, '-C', tree]);
  const ours = await clip(ctx, scratch, image.tars[0]!);
  const contenders = [
    ours,
    passthrough(ctx, program, tree, path.join(scratch, 'single'), '-s'),
    passthrough(ctx, program, tree, path.join(scratch, 'threads'), null),
  ];
  const all = walk(tree);
  const part = all.filter((entry) => entry.path.startsWith(`${SUBTREE}/`));
  const names = shuffled(part.map((entry) => entry.path));
  const large = all.filter((entry) => entry.size >= LARGE).map((entry) => entry.path);
  const rows: Row[] = [];

  const lookups = await rounds(ctx, contenders, `cold lookups of ${names.length} names`, async (directory) => {
    const [time] = await probe('lookups', directory, names);
    return (time! / names.length) * 1e6;
  });
  rows.push(...compare(`cold lookup (${names.length} names, random order)`, lookups, 'µs', { atMost: 1 }));

  const listing = await rounds(ctx, contenders, `cold find -ls of ${SUBTREE}`, (directory) =>
    findLs(path.join(directory, SUBTREE)),
  );
  rows.push(...compare(`cold find -ls (${part.length} entries)`, listing, 's', { atMost: 1 }));

  const reads = await rounds(ctx, contenders, `sequential reads of ${large.length} large files`, async (directory) => {
    const [time, bytes] = await probe('sequential', directory, large);
    return bytes! / time! / 1e6;
  });
  rows.push(
    ...compare(`sequential read, ${large.length} files of ≥ 4 MiB, cold page cache`, reads, 'MB/s', { atLeast: 1.2 }),
  );

  const p50: Samples = new Map();
  const tail = await rounds(ctx, contenders, `${READERS} readers of random pages`, async (directory, name) => {
    const [, middle, p99] = await probe('random', directory, large, String(READERS), String(READS));
    p50.set(name, [...(p50.get(name) ?? []), middle!]);
    return p99!;
  });
  rows.push(...compare(`p99 of a 4 KiB hit, ${READERS} readers`, tail, 'µs', { atMost: 1 }));
  const crowd = await rounds(ctx, [ours], `${CROWD} readers of random pages`, async (directory) => {
    const [, middle] = await probe('random', directory, large, String(CROWD), String(READS / 4));
    return middle! / 1000;
  });
  rows.push(bounded(`p50 of a 4 KiB hit, ${CROWD} readers`, median(crowd.get('clip')!), 'ms', { atMost: 1 }));
  rows.push(bounded('heap allocated per hit', measureHits().bytesPerHit, 'bytes', { atMost: 1 }));
  const control = { value: median(p50.get('clip')!) / median(p50.get('passthrough_ll -s')!), to: 'passthrough_ll -s' };
  rows.push({
    metric: `p50 of a 4 KiB hit, ${READERS} readers`,
    value: median(p50.get('clip')!),
    unit: 'µs',
    ratio: control,
  });

  rows.push(...(await againstExt4(ctx, ours, tree)));
  return {
    title: `the FUSE plane alone, ${path.basename(image.reference)}, ${all.length} entries, ${ROUNDS} rounds`,
    rows,
  };
}

/** `find -ls` of the whole tree, and the Python workload, after dropping all caches and again at once: the server lives on, as clipd does. */
async function againstExt4(ctx: BenchContext, ours: Contender, tree: string): Promise<Row[]> {
  ctx.log('find -ls and Python against ext4');
  // Pages that are not on the disk yet would survive dropping the caches.
  await runProgram('sync', []);
  const samples = (): Samples =>
    new Map([
      ['clip', []],
      ['ext4', []],
    ]);
  const find = { cold: samples(), warm: samples() };
  const python = SESSIONS.map((session) => ({ ...session, cold: samples(), warm: samples() }));
  const mounted = await ours.mount();
  try {
    for (let round = 0; round < ROUNDS; round++) {
      for (const [name, directory] of [
        ['clip', mounted],
        ['ext4', tree],
      ] as const) {
        dropCaches();
        // find(1) itself and its libraries come from the same disk as ext4's tree.
        await findLs('/proc/self/attr');
        find.cold.get(name)!.push(await findLs(directory));
        find.warm.get(name)!.push(await findLs(directory));
        for (const { command, cold, warm } of python) {
          const [program, ...args] = command;
          dropCaches();
          await runProgram(program, [...args, '/', 'true']);
          for (const list of [cold, warm]) {
            list.get(name)!.push((await runProgram(program, [...args, directory, ...WORKLOAD])).seconds);
          }
        }
      }
    }
  } finally {
    await ours.unmount();
  }
  return [
    ...compare('find -ls, whole tree, caches dropped', find.cold, 's', { atMost: 1.2 }),
    ...compare('find -ls, whole tree, warm', find.warm, 's', { atMost: 1.1 }),
    ...python.flatMap(({ name, cold, warm }) => [
      ...compare(`import numpy, scipy, pandas, ${name}, caches dropped`, cold, 's', { atMost: 1.1 }),
      ...compare(`import numpy, scipy, pandas, ${name}, warm`, warm, 's', { atMost: 1.15 }),
    ]),
  ];
}
