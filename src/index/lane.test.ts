import { spawnSync } from 'node:child_process';
import { Worker } from 'node:worker_threads';
import { gzipSync } from 'node:zlib';
import { afterEach, expect, test, vi } from 'vitest';
import { layerLike } from '../../test/support/gzip.js';
import { file, tar } from '../../test/support/tar.js';
import type { BlobTarget } from '../oci/index.js';
import { Lane, prepareLane, takeLane } from './lane.js';

// Node 20 aborts the process when it terminates a thread that is just making a zlib stream: one of 200 that are making one after the other.

afterEach(() => void vi.restoreAllMocks());

const blob = gzipSync(tar(file('large', layerLike(6e6))));
const job = {
  type: 'layer',
  digest: 'sha256:x',
  blobBytes: 1 << 20,
  spanBytes: 1 << 20,
  cuts: null,
  hashes: false,
} as const;

test.each([
  ['before it has anything to do', 0],
  ['in the middle of a layer', 700_000],
  ['after a layer', blob.length],
])('a lane that is closed %s ends its threads without terminating them', async (_when, length) => {
  const terminate = vi.spyOn(Worker.prototype, 'terminate');
  const lane = new Lane();
  let given = 0;
  const { fed, result } = lane.index(
    job,
    async ({ room, filled }) => {
      while (given < length) {
        const place = room();
        const part = blob.subarray(given, Math.min(length, given + place.length));
        place.set(part);
        given += part.length;
        await filled(part.length);
      }
      if (length < blob.length) await new Promise(() => {});
    },
    () => {},
  );
  const ended = Promise.allSettled([fed, result]);
  const whole = length === blob.length;
  if (whole) await ended;
  else await vi.waitUntil(() => given === length);
  await lane.close();
  await lane.close();
  const status = whole ? 'fulfilled' : 'rejected';
  expect((await ended).map((each) => each.status)).toEqual([status, status]);
  expect(terminate).not.toHaveBeenCalled();
});

test('a lane that is begun early is the next one taken, and indexes', async () => {
  prepareLane();
  const [first, second] = [takeLane(), takeLane()];
  expect(first).not.toBe(second);
  const read = async ({ room, filled }: BlobTarget): Promise<void> => {
    for (let given = 0; given < blob.length; ) {
      const place = room();
      const part = blob.subarray(given, given + place.length);
      place.set(part);
      given += part.length;
      await filled(part.length);
    }
  };
  for (const lane of [first, second]) {
    const { fed, result } = lane.index(job, read, () => {});
    await fed;
    expect((await result).entries.count).toBe(1);
    await lane.close();
  }
});

test('a process ends by itself though it began a lane and did not use it', () => {
  const program = `import { prepareLane } from '${new URL('./lane.js', import.meta.url)}'; prepareLane();`;
  const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' });
  expect([status, stderr]).toEqual([0, '']);
});
