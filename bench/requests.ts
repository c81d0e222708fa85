// npm run torture -- --requests N: N requests to one server, and the memory that it holds afterwards.
import { Worker } from 'node:worker_threads';
import { ClipdClient } from '../src/client/index.js';
import { flags, mountFileSystem } from '../src/linux/index.js';
import type { Stats } from '../src/wire/index.js';
import { Clipctl } from '../test/support/clipctl.js';
import { layerLike } from '../test/support/gzip.js';
import { writeImage } from '../test/support/images.js';
import { startRegistry } from '../test/support/registry.js';
import { dir, file, tar } from '../test/support/tar.js';
import type { WalkerData } from './requests-reader.js';

export interface RequestsVerdict {
  readonly requests: number;
  readonly reads: number;
  readonly misses: number;
  readonly seconds: number;
  /** Megabytes after the first 100,000 requests, and after the last; both idle. */
  readonly server: { readonly before: number; readonly after: number };
  readonly keeper: { readonly before: number; readonly after: number };
  readonly ok: boolean;
}

const FIRST = 100_000;
/** Memory must stay within this of its first value. From one measurement to the next it differs by this much, by when V8 collects. */
const TOLERANCE_MB = 5;

const DIRECTORIES = 200;
const FILES_PER_DIRECTORY = 100;
const LARGE_FILES = 40;
const LARGE_BYTES = 1_000_000;
const WALKERS = 4;
const READS_PER_WALK = 1500;
/** A little less than the bytes that are read: some reads are misses, and evict, all the time. */
const CACHE_SHARE = 0.97;
const SETTLE_MS = 3000;

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const rss = ({ memory }: Stats): { server: number; keeper: number } => ({
  server: memory.serverRss / 1e6,
  keeper: memory.keeperRss / 1e6,
});

/** Drops the dentries, inodes and pages of this file system alone, by a remount, so that the next requests reach the server. */
function forgetAll(place: string): void {
  const remount = flags.MS_REMOUNT | flags.MS_RDONLY | flags.MS_NOSUID | flags.MS_NODEV;
  mountFileSystem({ type: 'fuse', source: 'clip', target: place, flags: remount });
}

export async function replay(
  wanted: number,
  defer: (undo: () => Promise<void> | void) => void,
  log: (line: string) => void,
): Promise<RequestsVerdict> {
  const registry = await startRegistry();
  defer(() => registry.stop());
  const clip = await Clipctl.create();
  defer(() => clip.close());
  const directories = Array.from({ length: DIRECTORIES }, (_, i) => `d${i % 10}/e${i}`);
  const files = Array.from({ length: LARGE_FILES }, (_, i) => ({ path: `large/f${i}`, size: LARGE_BYTES }));
  const image = writeImage([
    tar(
      ...Array.from({ length: 10 }, (_, i) => dir(`d${i}`)),
      ...directories.flatMap((path) => [
        dir(path),
        ...Array.from({ length: FILES_PER_DIRECTORY }, (_, i) => file(`${path}/f${i}`, `${path} ${i}`)),
      ]),
      ...files.map(({ path }, i) => file(path, layerLike(LARGE_BYTES, i + 1))),
    ),
  ]);
  const archive = clip.path('replay.clip');
  try {
    await registry.push(image.reference, 'replay:latest');
    await clip.ok('index', '--image', `${registry.host}/replay:latest`, '--out', archive, '--checkpoint', '1');
  } finally {
    image.remove();
  }
  const place = await clip.place('mnt');
  const cap = Math.floor(LARGE_FILES * LARGE_BYTES * CACHE_SHARE);
  await clip.ok('mount', '--clip', archive, '--at', place, '--cache-size', String(cap));
  const client = new ClipdClient(clip.path('root'));

  const walkers = Array.from({ length: WALKERS }, (_, share) => {
    const workerData: WalkerData = {
      place,
      directories: directories.filter((_, i) => i % WALKERS === share),
      files,
      readsPerWalk: READS_PER_WALK,
    };
    const worker = new Worker(new URL('./requests-reader.js', import.meta.url), { workerData });
    defer(async () => void (await worker.terminate()));
    return worker;
  });
  const walk = (): Promise<unknown> =>
    Promise.all(
      walkers.map(
        (worker) =>
          new Promise((resolve, reject) => {
            worker.removeAllListeners().once('message', resolve).once('error', reject);
            worker.postMessage('walk');
          }),
      ),
    );
  const { serverPid } = await client.health();
  const started = performance.now();
  const until = async (requests: number): Promise<Stats> => {
    for (let said = 0; ; ) {
      await walk();
      forgetAll(place);
      const stats = await client.stats();
      const count = stats.fuse.requests!;
      if (stats.health.serverPid !== serverPid) throw new Error('the server process died');
      if (count - said >= 1_000_000) {
        said = count;
        const { server, keeper } = rss(stats);
        log(
          `${(count / 1e6).toFixed(1)} M requests, ${Math.round((performance.now() - started) / 1000)} s: ` +
            `server ${server.toFixed(1)} MB, keeper ${keeper.toFixed(1)} MB`,
        );
      }
      if (count < requests) continue;
      await sleep(SETTLE_MS);
      return client.stats();
    }
  };
  const early = rss(await until(FIRST));
  log(`after ${FIRST} requests: server ${early.server.toFixed(1)} MB, keeper ${early.keeper.toFixed(1)} MB`);
  const stats = await until(wanted);
  const late = rss(stats);
  const { fuse } = stats;
  return {
    requests: fuse.requests!,
    reads: fuse.hits! + fuse.misses!,
    misses: fuse.misses!,
    seconds: Math.round((performance.now() - started) / 1000),
    server: { before: early.server, after: late.server },
    keeper: { before: early.keeper, after: late.keeper },
    ok: late.server - early.server <= TOLERANCE_MB && late.keeper - early.keeper <= TOLERANCE_MB,
  };
}
