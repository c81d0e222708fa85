import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { type TestImage, writeImage } from '../support/images.js';
import { readDirect } from '../support/mounted.js';
import { file, tar } from '../support/tar.js';

// One layer under two archives that cut it differently, both mounted, in a cache of a quarter of their size. Needs root.

const CAP = 6 * 1024 * 1024;
const files = Array.from({ length: 12 }, (_, i) => ({ name: `file-${i}`, content: layerLike(1_000_000, i + 1) }));
const digestOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
let image: TestImage;
let clip: Clipctl;

beforeAll(async () => {
  image = writeImage([tar(...files.map(({ name, content }) => file(name, content)))]);
  clip = await Clipctl.create();
});
afterAll(async () => {
  await clip?.close();
  image?.remove();
});

test('readers of two mounts under a small cap get every byte, before and after a restart', async () => {
  const places: string[] = [];
  for (const [i, checkpoint] of ['1', '2'].entries()) {
    const archive = clip.path(`${checkpoint}.clip`);
    await clip.ok('index', '--image', image.reference, '--out', archive, '--checkpoint', checkpoint);
    places[i] = await clip.place(`mnt-${checkpoint}`);
  }
  // What earlier mounts read is not fetched ahead: after the restart it would take the room of spans that no mount uses yet.
  const mountAll = async (): Promise<void> => {
    const [first, second] = [clip.path('1.clip'), clip.path('2.clip')];
    await clip.ok('mount', '--clip', first, '--at', places[0]!, '--cache-size', String(CAP), '--no-prefetch');
    await clip.ok('mount', '--clip', second, '--at', places[1]!, '--no-prefetch');
  };
  const readAround = async (seed: number): Promise<void> => {
    for (let i = 0; i < 24; i++) {
      const at = (seed * 7 + i * 5) % (2 * files.length);
      const { name, content } = files[at % files.length]!;
      const got = await readFile(join(places[at < files.length ? 0 : 1]!, name));
      expect(digestOf(got), `${name} at ${at}`).toBe(digestOf(content));
      // Otherwise the kernel's page cache would answer most of it.
      if (i % 4 === 0) writeFileSync('/proc/sys/vm/drop_caches', '1');
    }
  };
  await mountAll();
  await Promise.all([0, 1, 2, 3].map(readAround));
  const before = (await clip.stats()).counters;
  expect(before.cacheEvictedBytes).toBeGreaterThan(CAP);
  expect(before.cacheUsedBytes).toBeLessThanOrEqual(CAP);
  expect(before.cacheMaxBytes).toBe(CAP);
  expect({ failed: before.failedSpans, damaged: before.spansDamaged }).toEqual({ failed: 0, damaged: 0 });
  const layers = await clip.json<{ layer: string; table: string }[]>('cache', 'ls');
  expect(new Set(layers.map(({ layer }) => layer)).size).toBe(1);
  expect(new Set(layers.map(({ table }) => table)).size).toBe(2);

  // Were the first answered by the page cache, its spans might have been evicted before the restart.
  const readOne = async (): Promise<void> => {
    expect(digestOf(await readDirect(join(places[1]!, 'file-7')))).toBe(digestOf(files[7]!.content));
  };
  await readOne();
  await clip.ok('daemon', '--stop');
  await mountAll();
  await readOne();
  // The cached spans were checked against the archive before their use, and needed no registry.
  const after = (await clip.stats()).counters;
  expect(after.spansChecked).toBeGreaterThan(0);
  expect(after.demandBytes).toBe(0);
  await Promise.all([4, 5].map(readAround));
  expect((await clip.stats()).counters.failedSpans).toBe(0);
}, 60_000);
