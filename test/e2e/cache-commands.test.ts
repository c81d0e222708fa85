import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl, type Ran } from '../support/clipctl.js';
import { type IndexedImage, indexedImage, sha256Of } from '../support/mounted.js';

// clipctl cache on a directory that a clipd has open, and on one that no process has.

interface Layer {
  readonly layer: string;
  readonly table: string;
  readonly usedBytes: number;
  readonly mounted: boolean;
}
interface Verified {
  readonly damaged: number;
  readonly files: { layer: string; intact: number; damaged: number }[];
}

let clip: Clipctl;
let image: IndexedImage;
let other: IndexedImage;

beforeAll(async () => {
  clip = await Clipctl.create();
  image = await indexedImage(clip, 'one', 1);
  other = await indexedImage(clip, 'two', 2);
});
afterAll(async () => {
  image.remove();
  other.remove();
  await clip.close();
});

function readAll(place: string, of: IndexedImage): void {
  for (const [path, hash] of of.hashes) expect(sha256Of(readFileSync(`${place}/${path}`)), path).toBe(hash);
}

/** Turns bytes over in the middle of a cached layer. */
function damage({ layer, table }: Layer): void {
  const path = join(clip.path('cache', 'spans'), `${layer.replace('sha256:', '')}.${table}`);
  const fd = openSync(path, 'r+');
  writeSync(fd, Buffer.from('damaged'), 0, 7, 2_500_000);
  closeSync(fd);
}

/** As a user who knows only the directory. */
async function cache(...args: string[]): Promise<Ran> {
  return clip.run(['cache', ...args, '--cache-dir', clip.path('cache')], {
    env: { CLIP_ROOT: '', CLIP_CACHE_DIR: '' },
  });
}
const json = async <T>(...args: string[]): Promise<T> => JSON.parse((await cache(...args, '--json')).stdout) as T;

test('the clipd that has the directory answers for it', async () => {
  const [a, b] = [await clip.place('a'), await clip.place('b')];
  await clip.ok('mount', '--clip', image.archive, '--at', a);
  await clip.ok('mount', '--clip', other.archive, '--at', b);
  readAll(a, image);
  readAll(b, other);
  await clip.ok('umount', b);
  const layers = await json<Layer[]>('ls');
  expect(layers.map((layer) => layer.mounted).sort()).toEqual([false, true]);
  const [mounted, unmounted] = [layers.find((l) => l.mounted)!, layers.find((l) => !l.mounted)!];
  expect((await cache('stat')).stdout).toMatch(/[kM]B of at most .* in 2 layer files, in use by clipd \(pid \d+\)\n/);
  // By the root alone, too.
  expect((await clip.json<{ directory: string }>('cache', 'stat')).directory).toBe(clip.path('cache'));

  damage(mounted);
  damage(unmounted);
  const found = await json<Verified>('verify');
  expect(found.files.map((f) => [f.layer, f.damaged]).sort()).toEqual(
    [mounted.layer, unmounted.layer].map((layer) => [layer, 1]).sort(),
  );
  expect((await json<Verified>('verify')).damaged).toBe(0);
  // The damaged span is fetched again, by a mount that has no pages of it in the kernel.
  await clip.ok('umount', a);
  await clip.ok('mount', '--clip', image.archive, '--at', a);
  readAll(a, image);

  const freed = await json<{ freedBytes: number; usedBytes: number }>('prune');
  expect(freed.freedBytes).toBeGreaterThan(1e6);
  expect((await json<Layer[]>('ls')).map((layer) => layer.layer)).toEqual([mounted.layer]);
  expect((await cache('prune')).stdout).toMatch(/^freed 0 B, .* left in layers that are mounted \(--mounted/);
  expect((await json<{ usedBytes: number }>('prune', '--mounted')).usedBytes).toBe(0);
  await clip.ok('umount', a);
  await clip.ok('mount', '--clip', image.archive, '--at', a);
  readAll(a, image);
  await clip.ok('umount', a);
  await clip.stop();
  // Now no process has it, and the same commands work on the directory themselves.
  expect((await cache('stat')).stdout).toMatch(/in 1 layer file, in use by no process\n/);
  expect((await json<Verified>('verify')).damaged).toBe(0);
  expect((await cache('prune')).stdout).toMatch(/^freed .*, 0 B left\n/);
  expect(readdirSync(clip.path('cache', 'spans'))).toEqual([]);
});

test('an owner that takes no requests is named', async () => {
  const module = new URL('../../src/cache/index.js', import.meta.url).href;
  const script = `const { SpanCache } = await import(${JSON.stringify(module)});
    await SpanCache.open(${JSON.stringify(clip.path('cache'))}, { owner: 'somebody' });
    console.log('open');
    setInterval(() => {}, 1000);`;
  const holder: ChildProcess = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    await new Promise((resolve) => holder.stdout!.once('data', resolve));
    for (const command of ['prune', 'verify']) {
      const ran = await cache(command);
      expect([ran.code, ran.stderr]).toEqual([
        EXIT_CODES.BUSY,
        expect.stringContaining(`in use by somebody (pid ${holder.pid})`),
      ]);
    }
    expect((await cache('stat')).stdout).toContain(`in use by somebody (pid ${holder.pid})`);
  } finally {
    holder.kill('SIGKILL');
  }
});
