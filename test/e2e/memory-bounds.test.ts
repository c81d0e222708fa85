import { type ChildProcess, spawn } from 'node:child_process';
import { linkSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually, health } from '../support/mounted.js';
import { entry, file, tar } from '../support/tar.js';

// Budgets of memory (docs/architecture.md, "Invariant 7").

const MIB = 1 << 20;
/** The largest checkpoint distance: each span is inflated whole for a read of one byte. */
const SPAN_MIB = 64;
const SPANS = 8;
const honest = layerLike(3 * MIB, 77);

/** A tree of so many MiB: a symbolic link's target fills a block of it. */
const TREE_MIB = 96;
const TARGET_BYTES = 4000;

let clip: Clipctl;

beforeAll(async () => {
  clip = await Clipctl.create();
  const huge = Buffer.alloc(SPANS * SPAN_MIB * MIB, layerLike(64 * 1024, 5));
  for (const [name, content, distance] of [
    ['huge', huge, SPAN_MIB],
    ['honest', honest, 1],
  ] as const) {
    const image = writeImage([tar(file('f', content))]);
    await clip.ok(
      'index',
      '--image',
      image.reference,
      '--out',
      clip.path(`${name}.clip`),
      '--checkpoint',
      `${distance}`,
    );
  }
});
afterAll(async () => clip.close());

/** MiB that a process has, and has had at most. */
function memoryOf(pid: number): { now: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): number => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)![1]) / 1024;
  return { now: field('VmRSS'), peak: field('VmHWM') };
}

function readByte(place: string, offset: number): ChildProcess {
  return spawn('dd', [`if=${place}/f`, 'of=/dev/null', 'bs=1', 'count=1', `skip=${offset}`], { stdio: 'ignore' });
}
const ended = (child: ChildProcess): Promise<number | null> => new Promise((resolve) => child.once('exit', resolve));

test('eight bytes of spans of 64 MiB that the cache does not take cost no GBs, no other reader’s time, and nothing after umount', async () => {
  const own = await Clipctl.create();
  try {
    const [bad, good] = [await own.place('huge'), await own.place('honest')];
    await own.ok(...['mount', '--clip', clip.path('honest.clip'), '--at', good, '--cache-size', '1M', '--no-prefetch']);
    await own.ok(...['mount', '--clip', clip.path('huge.clip'), '--at', bad, '--no-prefetch', '--no-readahead']);
    const { serverPid } = await health(own);
    expect(await ended(readByte(good, 0))).toBe(0); // what the first read of all loads is loaded
    const before = memoryOf(serverPid);
    const reads = Array.from({ length: SPANS }, (_, i) => ended(readByte(bad, (i + 0.5) * SPAN_MIB * MIB)));
    let answered = 0;
    for (const read of reads) void read.then(() => answered++);
    expect(await ended(readByte(good, 2 * MIB))).toBe(0);
    expect(answered).toBeLessThan(SPANS); // the other reader does not wait for all of them
    expect(await Promise.all(reads)).toEqual(Array.from({ length: SPANS }, () => 0));
    expect(memoryOf(serverPid).peak - before.now).toBeLessThan(450);
    await own.ok('umount', bad);
    await eventually(() => memoryOf(serverPid).now - before.now < 60, 20_000);
  } finally {
    await own.close();
  }
});

test('the tree of an image goes back to the system after umount, and so does that of an archive that is refused', async () => {
  const links = Array.from({ length: (TREE_MIB * MIB) / 4096 }, (_, i) =>
    entry('symlink', `${i}`, { link: 'x'.repeat(TARGET_BYTES) }),
  );
  const image = writeImage([tar(file('f', honest), ...links)]);
  const own = await Clipctl.create();
  try {
    const [good, place, second] = [await own.place('honest'), await own.place('large'), await own.place('second')];
    const [archive, link] = [own.path('large.clip'), own.path('link.clip')];
    await own.ok('index', '--image', image.reference, '--out', archive);
    await own.ok('mount', '--clip', clip.path('honest.clip'), '--at', good);
    expect(await ended(readByte(good, 0))).toBe(0); // what the first read of all loads is loaded
    const serverMib = async (): Promise<number> => (await own.stats()).memory.serverRss / MIB;
    const before = await serverMib();
    const trees = async (): Promise<number> => ((await serverMib()) - before) / TREE_MIB;

    await own.ok('mount', '--clip', archive, '--at', place);
    expect(await ended(readByte(place, 0))).toBe(0);
    expect(await trees()).toBeGreaterThan(0.9);
    // Its attributes have changed, so it is read to learn that it is the same archive; the other mount of it is refused.
    linkSync(archive, link);
    await own.ok('mount', '--clip', link, '--at', second);
    const refused = await own.run(['mount', '--clip', link, '--at', await own.place('third'), '--no-prefetch']);
    expect(refused.stderr).toContain('is mounted already with prefetch true');
    await eventually(async () => (await trees()) < 1.5, 30_000);
    await own.ok('umount', second);
    await own.ok('umount', place);
    await eventually(async () => (await trees()) < 0.5, 30_000);
  } finally {
    await own.close();
    image.remove();
  }
});
