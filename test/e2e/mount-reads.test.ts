import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { alive, eventually, health, sha256Of } from '../support/mounted.js';
import { type RegistryProxy, startProxy } from '../support/proxy.js';
import { LOGIN, startRegistry, type TestRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

// Reads while the registry is slow, dead or lying (docs/architecture.md, "Invariants").

const FILES = 40;
const SIZE = 300_000;
const contents = Array.from({ length: FILES }, (_, i) => layerLike(SIZE, i + 1));

let clip: Clipctl;
let registry: TestRegistry;
let proxy: RegistryProxy;
let place: string;
const children: ChildProcess[] = [];

beforeAll(async () => {
  clip = await Clipctl.create();
  registry = await startRegistry();
  proxy = await startProxy({ upstream: registry.url });
  const image = writeImage([tar(...contents.map((content, i) => file(`f${i}`, content)))]);
  await registry.push(image.reference, 'reads:latest');
  image.remove();
  await clip.ok('index', '--image', `${proxy.host}/reads:latest`, '--out', clip.path('a.clip'), '--checkpoint', '1');
});
afterAll(async () => {
  for (const child of children) child.kill('SIGKILL');
  await clip.close();
  await proxy.stop();
  await registry.stop();
});

/** kernel-plane-mount-reads.test.ts runs these tests over the kernel plane. */
const KERNEL = process.env.CLIP_PLANE === 'kernel';

/** A mount with an empty cache. */
async function cold(name: string, ...args: string[]): Promise<Clipctl> {
  const own = await Clipctl.create({ env: clip.env.DOCKER_CONFIG ? { DOCKER_CONFIG: clip.env.DOCKER_CONFIG } : {} });
  place = await own.place(name);
  await own.ok('mount', '--clip', clip.path('a.clip'), '--at', place, '--no-readahead', ...args);
  return own;
}

/** A file of which no byte has been asked for yet; neighbours are in other spans. */
let next = 0;
const fresh = (): { path: string; sha256: string } => {
  next += 7;
  const index = next % FILES;
  return { path: `${place}/f${index}`, sha256: sha256Of(contents[index]!) };
};

/** Reads in another process: this one must not sleep in the kernel. */
function reader(path: string, direct = false): ChildProcess {
  // dd catches SIGINT, which only a direct read would notice.
  const child = direct
    ? spawn('dd', [`if=${path}`, 'of=/dev/null', 'bs=128k', 'iflag=direct'], { stdio: 'ignore' })
    : spawn('cat', [path], { stdio: 'ignore' });
  children.push(child);
  return child;
}
const ended = (child: ChildProcess): Promise<{ code: number | null; signal: string | null; ms: number }> => {
  const started = performance.now();
  return new Promise((resolve) =>
    child.once('exit', (code, signal) => resolve({ code, signal, ms: performance.now() - started })),
  );
};

describe('a registry that does not answer', () => {
  test('a mount needs no registry; a read gets EIO after --read-timeout; a later one succeeds', async () => {
    proxy.fault = () => ({ refuse: true });
    const own = await cold('a', '--read-timeout', '1');
    try {
      const { path, sha256 } = fresh();
      const started = performance.now();
      await expect(readFile(path)).rejects.toThrow(/EIO/);
      expect(performance.now() - started).toBeLessThan(4000);
      const log = readFileSync(own.path('root', 'clipd.log'), 'utf8');
      expect(log).toMatch(/a read (timed out|failed)/);
      proxy.fault = null;
      await eventually(async () => {
        try {
          return sha256Of(await readFile(path)) === sha256;
        } catch {
          return false;
        }
      });
      expect((await own.stats()).counters.missErrors! + (await own.stats()).counters.missTimedOut!).toBeGreaterThan(0);
    } finally {
      proxy.fault = null;
      await own.close();
    }
  });

  test('a read waits for a registry that refuses connections, even one that this clipd has never reached', async () => {
    const upstream = await startProxy({ upstream: registry.url });
    const archive = clip.path('away.clip');
    await clip.ok('index', '--image', `${upstream.host}/reads:latest`, '--out', archive);
    const { port } = upstream;
    await upstream.stop();
    const own = await Clipctl.create();
    let back: RegistryProxy | undefined;
    try {
      const at = await own.place('away');
      await own.ok('mount', '--clip', archive, '--at', at);
      const content = readFile(`${at}/f0`);
      await eventually(() => readFileSync(own.path('root', 'clipd.log'), 'utf8').includes('waits for its registry'));
      back = await startProxy({ upstream: registry.url, port });
      expect(sha256Of(await content)).toBe(sha256Of(contents[0]!));
    } finally {
      await own.close();
      await back?.stop();
    }
  });

  test('a waiting reader dies at once on kill -9, and on SIGINT', async () => {
    proxy.fault = () => ({ delayMs: 60_000 });
    const own = await cold('b');
    try {
      // Through the page cache the kernel asks on the reader's behalf and lets it go by itself; a direct read is interrupted.
      for (const [signal, direct] of [
        ['SIGKILL', false],
        ['SIGINT', false],
        ['SIGKILL', true],
        ['SIGINT', true],
      ] as const) {
        if (direct && KERNEL) continue; // EROFS on files refuses O_DIRECT
        const child = reader(fresh().path, direct);
        await eventually(async () => (await own.stats()).connections.some((one) => one.inFlight > 0));
        expect(alive(child.pid!)).toBe(true);
        const end = ended(child);
        child.kill(signal);
        expect((await end).ms).toBeLessThan(500);
      }
      await eventually(async () => (await own.stats()).counters.missInterrupted! >= 2);
    } finally {
      proxy.fault = null;
      await own.close();
    }
  });

  test('stuck misses do not slow down hits', async () => {
    const own = await cold('c');
    try {
      const hit = fresh();
      expect(sha256Of(await readFile(hit.path))).toBe(hit.sha256);
      proxy.fault = () => ({ delayMs: 60_000 });
      const stuck = Array.from({ length: 30 }, (_, i) => reader(`${place}/f${i}`));
      await eventually(async () => (await own.stats()).connections.some((one) => one.inFlight > 0));
      writeFileSync('/proc/sys/vm/drop_caches', '1');
      const started = performance.now();
      const child = reader(hit.path);
      expect((await ended(child)).code).toBe(0);
      expect(performance.now() - started).toBeLessThan(1000);
      for (const one of stuck) one.kill('SIGKILL');
      // The mount goes, too, without waiting for any of them.
      const before = performance.now();
      await own.ok('umount', '--force', place);
      expect(performance.now() - before).toBeLessThan(5000);
    } finally {
      proxy.fault = null;
      await own.close();
    }
  });
});

test('bytes that are not the image’s are an error, never data', async () => {
  const own = await cold('d', '--read-timeout', '20');
  try {
    proxy.fault = (request) => (request.path.includes('/blobs/') ? { corruptAt: 10 } : null);
    const { path, sha256 } = fresh();
    await expect(readFile(path)).rejects.toThrow(/EIO/);
    const { counters } = await own.stats();
    expect(counters.digestMismatches).toBeGreaterThan(0);
    expect(counters[`wrongAnswer.${proxy.host}.bytes`]).toBeGreaterThan(0);
    expect(readFileSync(own.path('root', 'clipd.log'), 'utf8')).toMatch(/DIGEST_MISMATCH|digest/);
    proxy.fault = null;
    expect(sha256Of(await readFile(path))).toBe(sha256);
  } finally {
    proxy.fault = null;
    await own.close();
  }
});

test('credentials that only the client sees serve the server, and the next one', async () => {
  const locked = await startRegistry({ auth: 'basic' });
  const own = await Clipctl.create();
  try {
    const image = writeImage([tar(file('a', layerLike(3_000_000, 77)), file('b', layerLike(3_000_000, 78)))]);
    await locked.push(image.reference, 'locked:latest');
    image.remove();
    const config = own.path('docker');
    mkdirSync(config);
    const auth = Buffer.from(`${LOGIN.username}:${LOGIN.password}`).toString('base64');
    writeFileSync(`${config}/config.json`, JSON.stringify({ auths: { [locked.host]: { auth } } }));
    const env = { DOCKER_CONFIG: config };
    const at = await own.place('locked');
    const archive = own.path('locked.clip');
    const indexed = await own.run(
      ['index', '--image', `${locked.host}/locked:latest`, '--out', archive, '--checkpoint', '1'],
      { env },
    );
    expect([indexed.code, indexed.stderr]).toEqual([0, '']);
    // A clipd that runs already, and knows nothing of this client's environment.
    const daemon = own.run(['daemon']);
    await eventually(async () => (await own.run(['health'])).code === 0);
    const mounted = await own.run(['mount', '--clip', archive, '--at', at, '--no-readahead'], { env });
    expect([mounted.code, mounted.stderr]).toEqual([0, '']);
    expect(sha256Of(await readFile(`${at}/a`))).toBe(sha256Of(layerLike(3_000_000, 77)));
    process.kill((await health(own)).serverPid, 'SIGKILL');
    expect(sha256Of(await readFile(`${at}/b`))).toBe(sha256Of(layerLike(3_000_000, 78)));
    // Never on disk.
    expect(readFileSync(own.path('root', 'mounts.json'), 'utf8')).not.toContain(LOGIN.password);
    await own.stop();
    expect((await daemon).code).toBe(0);
  } finally {
    await own.close();
    await locked.stop();
  }
});
