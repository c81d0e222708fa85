import { closeSync, openSync, readdirSync, readSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { file, tar } from '../support/tar.js';

// A cache whose bytes change on the disk while they are mounted (docs/operations.md, "Damage on the disk").

const SIZE = 900_000; // one span
const content = layerLike(SIZE, 9);
/** Farther from the start than the kernel reads ahead. */
const AT = 600 * 1024;

let clip: Clipctl;

beforeAll(async () => {
  clip = await Clipctl.create();
  const image = writeImage([tar(file('f', content))]);
  await clip.ok('index', '--image', image.reference, '--out', clip.path('a.clip'), '--checkpoint', '1');
});
afterAll(async () => clip.close());

function page(path: string, offset: number): Buffer {
  const bytes = Buffer.alloc(4096);
  const fd = openSync(path, 'r');
  readSync(fd, bytes, 0, 4096, offset);
  closeSync(fd);
  return bytes;
}
const right = (bytes: Buffer): boolean => bytes.equals(content.subarray(AT, AT + 4096));

/** Turns a bit over in what the cache has of the page at AT. */
async function damage(own: Clipctl): Promise<void> {
  const { cacheDir } = await own.json<{ cacheDir: string }>('health');
  const spans = join(cacheDir, 'spans');
  const [name] = readdirSync(spans).filter((entry) => !entry.endsWith('.table'));
  const path = join(spans, name!);
  const cached = await readFile(path);
  const at = cached.indexOf(content.subarray(0, 4096)) + AT;
  expect(at).toBeGreaterThan(AT);
  const fd = openSync(path, 'r+');
  writeSync(fd, Buffer.from([cached[at]! ^ 1]), 0, 1, at);
  closeSync(fd);
}

async function mounted(...flags: string[]): Promise<{ own: Clipctl; path: string }> {
  const own = await Clipctl.create();
  const place = await own.place('m');
  await own.ok('mount', '--clip', clip.path('a.clip'), '--at', place, '--no-prefetch', '--no-readahead', ...flags);
  const path = `${place}/f`;
  page(path, 0); // the span is in the cache, and the page at AT not in the kernel
  return { own, path };
}

test('cache verify drops the pages that the kernel has of damaged spans', async () => {
  const { own, path } = await mounted();
  try {
    await damage(own);
    expect(right(page(path, AT))).toBe(false); // the check is worth something only if this is so
    const reply = await own.json<{ damaged: number }>('cache', 'verify');
    expect(reply.damaged).toBe(1);
    expect(right(page(path, AT))).toBe(true);
    expect(Buffer.compare(await readFile(path), content)).toBe(0);
  } finally {
    await own.close();
  }
});

test('cache prune --mounted drops the pages of what it frees', async () => {
  const { own, path } = await mounted();
  try {
    const fetched = async (): Promise<number> => {
      const stats = await own.json<{ counters?: Record<string, number>; demandBytes?: number }>('stats');
      return stats.counters?.demandBytes ?? stats.demandBytes!;
    };
    await readFile(path);
    const before = await fetched();
    await readFile(path);
    expect(await fetched()).toBe(before);
    await own.ok('cache', 'prune', '--to', '0', '--mounted');
    expect(Buffer.compare(await readFile(path), content)).toBe(0);
    expect(await fetched()).toBeGreaterThan(before);
  } finally {
    await own.close();
  }
});

test('--paranoid checks a span before each read of it', async () => {
  const { own, path } = await mounted('--paranoid');
  try {
    await damage(own);
    expect(right(page(path, AT))).toBe(true);
    expect(Buffer.compare(await readFile(path), content)).toBe(0);
  } finally {
    await own.close();
  }
});
