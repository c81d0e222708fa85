import path from 'node:path';
import { Clipctl, runProgram } from '../test/support/clipctl.js';
import { startRedis } from '../test/support/content-servers.js';
import { spawnProxy } from '../test/support/proxy-process.js';
import { type BenchContext, type BenchImage, bounded, dropCaches, median, type Row, run } from './support.js';

const ROUNDS = 3;

/**
 * A second machine: its disk is cold, a Redis on loopback has the spans that a first machine stored, and the registry is behind a
 * link of 1 Gbit/s. The registry must not be asked for any blob.
 */
export async function warmSharedCache(
  ctx: BenchContext,
  image: BenchImage,
  scratch: string,
  workload: readonly string[],
  latencyMs: number,
): Promise<Row[]> {
  const redis = await startRedis();
  ctx.defer(() => redis.stop());
  const [host, repository] = image.reference.split(/\/(.*)/);
  const proxy = await spawnProxy({ upstream: `http://${host}`, latencyMs, bytesPerSecond: 125e6 });
  ctx.defer(() => proxy.stop());
  const clip = path.join(scratch, 'shared.clip');
  const contentCache = ['--content-cache', `redis://127.0.0.1:${redis.port}`];

  const first = await Clipctl.create({ parent: scratch });
  ctx.defer(() => first.close());
  // The first machine is near the registry, because only the second one is measured.
  await first.ok('index', '--image', image.reference, '--out', clip);
  const place = await first.place('mnt');
  await first.ok('mount', '--clip', clip, '--at', place, ...contentCache);
  await run('sh', ['-c', 'find "$0" -type f -exec cat {} + > /dev/null', place]);
  for (;;) {
    const { counters } = await first.stats();
    if (counters.contentQueueBytes === 0) {
      if (counters.contentDropped) ctx.log(`${counters.contentDropped} spans did not make it into Redis`);
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await first.close();

  const remote = path.join(scratch, 'shared-remote.clip');
  await first.ok(
    'index',
    '--image',
    image.reference,
    '--storage-image',
    `${proxy.host}/${repository}`,
    '--out',
    remote,
  );
  const seconds: number[] = [];
  let requests = 0;
  let bytes = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const second = await Clipctl.create({ parent: scratch });
    ctx.defer(() => second.close());
    const mountPoint = await second.place('mnt');
    await proxy.reset();
    await run('sync', []);
    dropCaches();
    const mount = await second.ok('mount', '--clip', remote, '--at', mountPoint, ...contentCache);
    const ran = await runProgram('chroot', [mountPoint, ...workload]);
    if (ran.stdout !== 'ready\n') throw new Error(`the workload failed: ${ran.stderr.trim().slice(-300)}`);
    seconds.push(mount.seconds + ran.firstOutput);
    requests += (await proxy.requests()).filter((r) => r.path.includes('/blobs/')).length;
    bytes = (await second.stats()).counters.contentBytes ?? 0;
    await second.close();
  }
  return [
    bounded('second machine, warm Redis: registry blob requests', requests, '', { atMost: 0 }, `${ROUNDS} cold starts`),
    { metric: 'second machine, warm Redis: ready', value: median(seconds), unit: 's' },
    { metric: 'second machine, warm Redis: from Redis', value: bytes / 1e6, unit: 'MB' },
  ];
}
