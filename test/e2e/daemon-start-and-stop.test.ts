import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { afterEach, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { startKeeper } from '../../src/client/index.js';
import { check, flags, sys } from '../../src/linux/index.js';
import { Clipctl, type Ran } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { alive, eventually, health, sha256Of } from '../support/mounted.js';
import { startProxy } from '../support/proxy.js';
import { startRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

// A clipd under a service manager, on an old kernel, and with a registry that hangs.

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

async function ownClip(): Promise<Clipctl> {
  const clip = await Clipctl.create();
  undo.push(() => clip.close());
  return clip;
}

test('Type=notify: READY=1 comes when clipd serves, from the process that systemd started; STOPPING=1 when it ends', async () => {
  const clip = await ownClip();
  const path = Buffer.from(clip.path('notify'));
  const address = Buffer.concat([Buffer.from([flags.AF_UNIX, 0]), path]);
  const SOCK_DGRAM = 2;
  const fd = check(sys.socket(flags.AF_UNIX, SOCK_DGRAM | flags.SOCK_CLOEXEC | flags.SOCK_NONBLOCK), 'socket');
  undo.push(() => sys.close(fd));
  check(sys.bindSocket(fd, address, address.length), 'bind');
  const buffer = Buffer.alloc(100);
  const next = async (): Promise<string> => {
    let length = -1;
    await eventually(() => {
      length = sys.read(fd, buffer, buffer.length);
      return length > 0;
    });
    return buffer.toString('utf8', 0, length);
  };
  let daemon: ChildProcess | undefined;
  const ended = clip.run(['daemon'], {
    env: { NOTIFY_SOCKET: path.toString() },
    onStart: (child) => {
      daemon = child;
    },
  });
  expect(await next()).toBe('READY=1');
  const { keeperPid } = await health(clip);
  expect(keeperPid).toBe(daemon!.pid);
  daemon!.kill('SIGTERM');
  expect(await next()).toBe('STOPPING=1');
  expect((await ended).code).toBe(0);
});

test.each(['clipctl daemon', 'clipctl mount'])(
  'the log of a clipd started by %s has mounts and unmounts, and is where the pages say',
  async (by) => {
    const clip = await ownClip();
    const image = writeImage([tar(file('a', 'hello'))]);
    undo.push(() => image.remove());
    const archive = clip.path('a.clip');
    await clip.ok('index', '--image', image.reference, '--out', archive);
    const place = await clip.place('mnt');
    let stderr = '';
    if (by === 'clipctl daemon') {
      const ended = clip.run(['daemon'], {
        onStart: (child) => child.stderr!.on('data', (chunk: Buffer) => (stderr += chunk.toString())),
      });
      undo.push(async () => {
        await clip.stop();
        await ended;
      });
      await eventually(() => stderr.includes('clipd serves'));
    }
    await clip.ok('mount', '--clip', archive, '--at', place);
    await clip.ok('umount', place);
    const inRoot = readFileSync(clip.path('root', 'clipd.log'), 'utf8');
    if (by === 'clipctl daemon') expect(inRoot).toContain('the log of this clipd is its standard error');
    const log = by === 'clipctl daemon' ? stderr : inRoot;
    const lines = log.split('\n').filter((line) => line.startsWith('{'));
    const said = lines.map((line) => JSON.parse(line) as { msg: string; place?: string; archive?: string });
    expect(said).toContainEqual(expect.objectContaining({ msg: 'mounted', place, archive }));
    expect(said).toContainEqual(expect.objectContaining({ msg: 'unmounted', place, archive }));
  },
);

/** A mount whose registry can be made to hang, and the daemon that `start` starts. */
async function mountBehindProxy(start: (clip: Clipctl) => Promise<unknown>) {
  const clip = await ownClip();
  const registry = await startRegistry();
  undo.push(() => registry.stop());
  const proxy = await startProxy({ upstream: registry.url });
  undo.push(() => proxy.stop());
  const files = new Map([1, 2, 3].map((seed) => [`f${seed}`, layerLike(2e6, seed)]));
  const image = writeImage([tar(...[...files].map(([name, bytes]) => file(name, bytes)))]);
  undo.push(() => image.remove());
  await registry.push(image.reference, 'edges:latest');
  const archive = clip.path('edges.clip');
  await clip.ok('index', '--image', `${proxy.host}/edges:latest`, '--out', archive, '--checkpoint', '1');
  await start(clip);
  const place = await clip.place('mnt');
  await clip.ok('mount', '--clip', archive, '--at', place, '--no-readahead', '--no-prefetch');
  const verify = async (name: string): Promise<void> => {
    expect(sha256Of(await readFile(`${place}/${name}`))).toBe(sha256Of(files.get(name)!));
  };
  /** Resolves when a fetch hangs. */
  const hang = async (begin: () => void): Promise<void> => {
    proxy.fault = () => ({ stallAfter: 0 });
    const before = proxy.requests.length;
    begin();
    await eventually(() => proxy.requests.length > before);
  };
  return { clip, proxy, place, verify, hang };
}

test('daemon --json says why it does not start as a document, too, whether client or keeper finds out', async () => {
  const clip = await ownClip();
  const image = writeImage([tar(file('a', 'hello'))]);
  undo.push(() => image.remove());
  await clip.ok('index', image.reference, '-o', clip.path('a.clip'));
  await clip.ok('mount', clip.path('a.clip'), await clip.place('mnt'));
  // The keeper finds the root taken.
  const busy = await clip.run(['daemon', '--json']);
  expect([busy.code, JSON.parse(busy.stdout)]).toEqual([
    EXIT_CODES.BUSY,
    { error: { code: 'BUSY', message: expect.stringContaining('runs with root'), hint: expect.any(String) } },
  ]);
  expect(busy.stderr).toContain('runs with root');
  expect((await clip.ok('health')).stdout).toMatch(/, 1 mount\n$/);
  // A server cannot use the cache.
  const other = await clip.run(['daemon', '--json', '--root', clip.path('other')]);
  expect(JSON.parse(other.stdout)).toMatchObject({ error: { code: 'BUSY' } });
});

test('a kernel that cannot send requests again: reads are taken over, one that is lost can be killed, and the log says so', async () => {
  const { clip, proxy, place, verify, hang } = await mountBehindProxy(async (own) => {
    const { serving } = await startKeeper({ root: own.path('root'), cacheDir: own.path('cache'), resend: false });
    await serving;
  });
  const replace = async (): Promise<void> => {
    const before = await health(clip);
    process.kill(before.serverPid, 'SIGKILL');
    proxy.fault = null;
    await eventually(async () => (await health(clip)).serverPid !== before.serverPid);
  };
  let reading: Promise<void> = Promise.resolve();
  await hang(() => {
    reading = verify('f1');
  });
  await replace();
  await reading;
  expect((await clip.json<{ resend: boolean }>('stats')).resend).toBe(false);
  expect(readFileSync(clip.path('root', 'clipd.log'), 'utf8')).toMatch(/"taken":[1-9].*cannot send requests again/);

  // A request that no server knows any more, as if a FUSE thread had been handling it.
  let reader: ChildProcess | undefined;
  await hang(() => {
    reader = spawn('cat', [`${place}/f2`], { stdio: 'ignore' });
    undo.push(() => reader!.kill('SIGKILL'));
  });
  rmSync(clip.path('root', 'reads', '1'));
  await replace();
  await verify('f3');
  expect(alive(reader!.pid!)).toBe(true);
  reader!.kill('SIGTERM');
  await eventually(() => !alive(reader!.pid!));
  await clip.ok('umount', place);
  await clip.stop();
  expect(readdirSync(clip.path('root'))).toEqual(['clipd.log']);
});

test('SIGTERM while a read waits for a registry that hangs: all is over, and nothing stays', async () => {
  let daemon: ChildProcess | undefined;
  let ended: Promise<Ran> | undefined;
  const { clip, place, hang } = await mountBehindProxy(async (own) => {
    ended = own.run(['daemon'], {
      onStart: (child) => {
        daemon = child;
      },
    });
    await eventually(async () => (await own.run(['health'])).code === 0);
  });
  let reading: Promise<unknown> | undefined;
  await hang(() => {
    reading = readFile(`${place}/f1`);
    reading.catch(() => {});
  });
  daemon!.kill('SIGTERM');
  expect((await ended!).code).toBe(0);
  await expect(reading).rejects.toThrow(/ENOTCONN|ECONNABORTED|EIO/);
  expect(clip.mounts()).toEqual([]);
});

test('daemon --stop ends a clipd whose server answers nobody: its keeper is told', async () => {
  const clip = await ownClip();
  const image = writeImage([tar(file('f', layerLike(1000, 1)))]);
  undo.push(() => image.remove());
  await clip.ok('index', '--image', image.reference, '--out', clip.path('i.clip'));
  const place = await clip.place('place');
  await clip.ok('mount', '--clip', clip.path('i.clip'), '--at', place);
  const { serverPid, keeperPid } = await health(clip);
  process.kill(serverPid, 'SIGSTOP');
  expect(await clip.json('daemon', '--stop')).toMatchObject({ stopped: true });
  expect([alive(serverPid), alive(keeperPid), clip.mounts()]).toEqual([false, false, []]);
  expect(readdirSync(clip.path('root'))).toEqual(['clipd.log']);
});
