import path from 'node:path';
import { Clipctl, runProgram } from '../test/support/clipctl.js';
import type { spawnProxy } from '../test/support/proxy-process.js';
import { type BenchContext, type BenchImage, dropCaches, run as runOk } from './support.js';

export const WORKLOAD = ['python3', '-c', 'import numpy, scipy, pandas; print("ready")'];
export const RTT_MS = 20;
export const ROUNDS = 3;

/** One cold start, from `clipctl mount` on. */
export interface Start {
  readonly mounted: number;
  readonly ready: number;
  readonly bytes: number;
  readonly requests: number;
}

/** Time until all of clipd is loaded, the server in reserve included, which boots after 2 s. */
const SETTLED_MS = 4000;

/**
 * Only the mounting machine's caches should be dropped. The registry stands for another machine, so its data and program are read
 * back before the measurement; otherwise it would compete for the disk.
 */
async function warmRegistry(image: BenchImage): Promise<void> {
  const [host, name] = image.reference.split(/\/(.*)/);
  for (const layer of image.layers) {
    const answer = await fetch(`http://${host}/v2/${name!.replace(/:.*/, '')}/blobs/sha256:${path.basename(layer)}`);
    if (!answer.ok) throw new Error(`the registry answers ${answer.status}`);
    for await (const _ of answer.body!);
  }
}

/** Cold caches everywhere but in the registry. */
export async function coolDown(image: BenchImage): Promise<void> {
  await runOk('sync', []);
  dropCaches();
  await warmRegistry(image);
}

/** A clipd that has begun: it has mounted something else, and all of it is loaded. */
export async function settle(host: Clipctl, other: string, flags: readonly string[] = []): Promise<void> {
  await host.ok('mount', '--clip', other, '--at', await host.place('other'), '--no-prefetch', ...flags);
  await new Promise((resolve) => setTimeout(resolve, SETTLED_MS));
}

/** From a start to the end of all that follows it: the server in reserve has been started, and memory given back, by V8 itself after 10 s. */
const RESTED_MS = 15_000;

/** PSS of server, keeper and reserve, a while after a start. */
export async function memoryOf(host: Clipctl): Promise<number> {
  await new Promise((resolve) => setTimeout(resolve, RESTED_MS));
  const { memory } = await host.json<{
    memory: Record<'serverPss' | 'keeperPss' | 'standbyPss' | 'clientPss', number>;
  }>('stats');
  if (memory.standbyPss === 0) throw new Error('no server in reserve was started');
  return memory.serverPss + memory.keeperPss + memory.standbyPss + memory.clientPss;
}

export interface StartOptions {
  /** An archive mounted before: a clipd runs already. Without it, the mount starts one. */
  readonly other?: string;
  /** More flags of `clipctl mount`. */
  readonly flags?: readonly string[];
  /** Flags of the mount that starts clipd, for each round anew. */
  readonly daemon?: (host: Clipctl) => Promise<readonly string[]>;
  /** The program and its arguments, by the mount point. It prints when it is ready. Default: WORKLOAD. */
  readonly program?: (root: string) => [string, readonly string[]];
  /** After each start, while clipd still runs. */
  readonly after?: (host: Clipctl, mountPoint: string) => Promise<void>;
}

/** With cold caches everywhere, mounts `clip` through `proxy` on a machine without any state, and runs the workload. */
export async function measureStarts(
  ctx: BenchContext,
  image: BenchImage,
  scratch: string,
  clip: string,
  proxy: Awaited<ReturnType<typeof spawnProxy>>,
  options: StartOptions = {},
): Promise<Start[]> {
  const { other, flags = [], daemon, program = (root) => ['chroot', [root, ...WORKLOAD]], after } = options;
  const starts: Start[] = [];
  // All settle at a time: an idle clipd takes no time from the others.
  const hosts = await Promise.all(
    Array.from({ length: ROUNDS }, async () => {
      const host = await Clipctl.create({ parent: scratch });
      ctx.defer(() => host.close());
      const own = (await daemon?.(host)) ?? [];
      if (other !== undefined) await settle(host, other, own);
      return { host, own };
    }),
  );
  for (const { host, own } of hosts) {
    const mountPoint = await host.place('mnt');
    await proxy.reset();
    await coolDown(image);
    const mount = await host.ok('mount', '--clip', clip, '--at', mountPoint, ...flags, ...own);
    const workload = await runProgram(...program(mountPoint));
    if (workload.code !== 0 || workload.firstOutput === 0) {
      throw new Error(`the workload failed: ${workload.stderr.trim().slice(-300)}`);
    }
    const blobs = (await proxy.requests()).filter((r) => r.path.includes('/blobs/'));
    starts.push({
      mounted: mount.seconds,
      ready: mount.seconds + workload.firstOutput,
      bytes: blobs.reduce((sum, r) => sum + r.bytes, 0),
      requests: blobs.length,
    });
    await after?.(host, mountPoint);
    await host.close();
  }
  return starts;
}
