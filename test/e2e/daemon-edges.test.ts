import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { afterEach, expect, test } from 'vitest';
import { startKeeper } from '../../src/daemon/index.js';
import { check, flags, sys } from '../../src/linux/index.js';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { alive, eventually, health, sha256Of } from '../support/mounted.js';
import { startProxy } from '../support/proxy.js';
import { startRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

// What a clipd does where the surroundings are special: a service manager, an old kernel.

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

test('a kernel that cannot send requests again: a lost read can be killed, all else goes on, and it is said', async () => {
  const clip = await ownClip();
  const registry = await startRegistry();
  undo.push(() => registry.stop());
  const proxy = await startProxy({ upstream: registry.url });
  undo.push(() => proxy.stop());
  const image = writeImage([tar(file('stuck', layerLike(2e6, 1)), file('other', layerLike(2e6, 2)))]);
  undo.push(() => image.remove());
  await registry.push(image.reference, 'edges:latest');
  const archive = clip.path('edges.clip');
  await clip.ok('index', '--image', `${proxy.host}/edges:latest`, '--out', archive, '--checkpoint', '1');
  const { serving } = await startKeeper({ root: clip.path('root'), cacheDir: clip.path('cache'), resend: false });
  await serving;
  const place = await clip.place('mnt');
  await clip.ok('mount', '--clip', archive, '--at', place, '--no-readahead', '--no-prefetch');
  proxy.fault = () => ({ stallAfter: 0 });
  const reader = spawn('cat', [`${place}/stuck`], { stdio: 'ignore' });
  undo.push(() => reader.kill('SIGKILL'));
  await eventually(() => proxy.requests.some(({ path }) => path.includes('/blobs/')));
  const before = await health(clip);
  process.kill(before.serverPid, 'SIGKILL');
  proxy.fault = null;
  await eventually(async () => (await health(clip)).serverPid !== before.serverPid);
  expect(sha256Of(await readFile(`${place}/other`))).toBe(sha256Of(layerLike(2e6, 2)));
  expect((await clip.json<{ resend: boolean }>('stats')).resend).toBe(false);
  expect(readFileSync(clip.path('root', 'clipd.log'), 'utf8')).toContain('cannot send requests again (Linux 6.9');
  expect(alive(reader.pid!)).toBe(true);
  reader.kill('SIGTERM');
  await eventually(() => !alive(reader.pid!));
  expect((await clip.run(['umount', place])).code).toBe(0);
});
