import { mkdtempSync, rmSync } from 'node:fs';
import { open, readdir, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';
import { type RegistryProxy, startProxy } from '../support/proxy.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { dir, file, tar } from '../support/tar.js';

const MIB = 1024 * 1024;
/** Long enough that guesses pay, however slowly a busy machine sends the bytes. */
const ROUND_TRIP_MS = 100;
const PROGRAM_SPANS = 24;
const MODULES = 150;
let registry: TestRegistry;
let proxy: RegistryProxy;
let archive: string;
let indexer: Clipctl;
const directory = mkdtempSync(join(tmpdir(), 'clip-guesses-'));
const content = layerLike(PROGRAM_SPANS * MIB);

beforeAll(async () => {
  const modules = Array.from({ length: MODULES }, (_, i) =>
    file(`usr/lib/pkg/module-${String(i).padStart(3, '0')}`, content.subarray(i * 60_000, i * 60_000 + 100_000)),
  );
  const image = writeImage([
    tar(dir('usr'), dir('usr/lib'), dir('usr/lib/pkg'), ...modules),
    tar(file('program', content)),
    tar(file('data', layerLike(PROGRAM_SPANS * MIB, 2))),
  ]);
  registry = await startRegistry();
  proxy = await startProxy({ upstream: registry.url, latencyMs: ROUND_TRIP_MS });
  await registry.push(image.reference, 'guesses:latest');
  image.remove();
  indexer = await Clipctl.create();
  archive = join(directory, 'image.clip');
  const from = ['--image', `${registry.host}/guesses:latest`, '--storage-image', `${proxy.host}/guesses`];
  await indexer.ok('index', ...from, '--out', archive, '--checkpoint', '1');
}, 120_000);
afterAll(async () => {
  await indexer?.close();
  await proxy?.stop();
  await registry?.stop();
  rmSync(directory, { recursive: true, force: true });
});

interface Fetched {
  readonly demand: number;
  readonly guessed: number;
  readonly useful: number;
}

/** What is fetched in a mount with an empty cache while `read` runs in it. */
async function fetchedBy(flags: readonly string[], read: (at: string) => Promise<void>): Promise<Fetched> {
  const clip = await Clipctl.create();
  try {
    const at = await clip.place('mnt');
    await clip.ok('mount', '--clip', archive, '--at', at, ...flags);
    await read(at);
    await eventually(async () => {
      const { spansQueued, requestsActive } = (await clip.stats()).counters;
      return spansQueued === 0 && requestsActive === 0;
    });
    const { counters } = await clip.stats();
    return {
      demand: counters.demandBytes ?? 0,
      guessed: counters.speculatedBytes ?? 0,
      useful: counters.speculatedUsefulBytes ?? 0,
    };
  } finally {
    await clip.close();
  }
}

async function readPackage(at: string): Promise<void> {
  for (const name of (await readdir(join(at, 'usr/lib/pkg'))).sort()) await readFile(join(at, 'usr/lib/pkg', name));
}

/** Pages of a file, one in each of these MiB, as page faults of a program read them. */
async function readPages(path: string, places: readonly number[]): Promise<void> {
  const handle = await open(path);
  try {
    const page = Buffer.alloc(4096);
    for (const place of places) await handle.read(page, 0, page.length, place * MIB + 300_000);
  } finally {
    await handle.close();
  }
}

const SCATTERED = Array.from({ length: PROGRAM_SPANS }, (_, i) => (i * 7) % PROGRAM_SPANS);

test('files of a package that are read one after the other come before their reader', async () => {
  const plain = await fetchedBy(['--no-readahead'], readPackage);
  const guessed = await fetchedBy([], readPackage);
  expect(plain).toMatchObject({ guessed: 0, useful: 0 });
  expect(guessed.useful).toBeGreaterThan(0.2 * plain.demand);
  expect(guessed.demand).toBeLessThan(0.8 * plain.demand);
}, 120_000);

test('a program that is paged in at random waits for few of its pages, and costs no more than itself', async () => {
  const plain = await fetchedBy(['--no-readahead'], (at) => readPages(join(at, 'program'), SCATTERED));
  const guessed = await fetchedBy([], (at) => readPages(join(at, 'program'), SCATTERED));
  expect(plain.guessed).toBe(0);
  expect(guessed.useful).toBeGreaterThan(0.4 * plain.demand);
  expect(guessed.demand + guessed.guessed).toBeLessThan(1.2 * plain.demand);
}, 120_000);

test('a reader of a few pages costs a bounded number of wrong guesses', async () => {
  const { demand, guessed, useful } = await fetchedBy([], (at) => readPages(join(at, 'data'), [1, 12, 22]));
  // The bound of policy.ts: 6 MB, half of what was right, a tenth of what was read.
  expect(guessed - useful).toBeLessThanOrEqual(6_000_000 + 0.5 * useful + 0.1 * (demand + useful));
}, 120_000);
