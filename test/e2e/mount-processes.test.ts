import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl, runProgram } from '../support/clipctl.js';
import {
  alive,
  eventually,
  health,
  type IndexedImage,
  isDead,
  listed,
  type TwoImages,
  tidy,
  twoImages,
  verify,
} from '../support/mounted.js';

// clipd's processes as users of its mounts meet them: begun, killed, replaced, stopped. Needs root and /dev/fuse.

/** kernel-plane-mount-processes.test.ts runs these tests over the kernel plane. */
const KERNEL = process.env.CLIP_PLANE === 'kernel';

let clip: Clipctl;
let image: IndexedImage;
let other: IndexedImage;
let close: TwoImages['close'];
const children: ChildProcess[] = [];

beforeAll(async () => {
  ({ clip, image, other, close } = await twoImages());
});
afterEach(() => tidy(clip, children));
afterAll(() => close());

async function mount(of: IndexedImage, name: string, ...args: string[]): Promise<string> {
  const place = await clip.place(name);
  await clip.ok('mount', '--clip', of.archive, '--at', place, ...args);
  return place;
}

describe('processes', () => {
  test('concurrent first mounts start one clipd; the last unmount of an auto-started one lets it leave', async () => {
    const own = await Clipctl.create();
    try {
      const places = await Promise.all([1, 2, 3, 4].map((i) => own.place(`p${i}`)));
      const ran = await Promise.all(places.map((at) => own.run(['mount', '--clip', image.archive, '--at', at])));
      expect(ran.map((r) => [r.code, r.stderr])).toEqual(places.map(() => [0, '']));
      const { keeperPid } = await health(own);
      const keepers = readdirSync('/proc').filter((pid) => {
        try {
          return (
            readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('keeper') &&
            readFileSync(`/proc/${pid}/environ`, 'utf8').includes(own.directory)
          );
        } catch {
          return false;
        }
      });
      expect(keepers).toEqual([String(keeperPid)]);
      expect((await listed(own)).length).toBe(4);
      await own.ok('daemon', '--stop');
      expect(alive(keeperPid)).toBe(false);
      expect(own.mounts()).toEqual([]);
      expect(readdirSync(own.path('root'))).toEqual(['clipd.log']);
    } finally {
      await own.close();
    }
  });

  test('a server killed in mid-read is not noticed by the reader', async () => {
    const place = await mount(image, 'r', '--no-readahead');
    const before = await health(clip);
    for (let round = 0; round < 5; round++) {
      const reads = [...image.hashes.keys()].map((path) => readFile(`${place}/${path}`));
      process.kill((await health(clip)).serverPid, 'SIGKILL');
      const contents = await Promise.all(reads);
      expect(contents.map((bytes) => createHash('sha256').update(bytes).digest('hex'))).toEqual([
        ...image.hashes.values(),
      ]);
    }
    const after = await health(clip);
    expect(after.keeperPid).toBe(before.keeperPid);
    expect(after.restarts - before.restarts).toBe(5);
  });

  test('--upgrade swaps the server under running mounts', async () => {
    const place = await mount(image, 's');
    const before = await health(clip);
    const ran = await clip.json<{ serverPid: number }>('daemon', '--upgrade');
    expect(ran.serverPid).not.toBe(before.serverPid);
    verify(place, image);
    const after = await health(clip);
    expect([after.keeperPid, after.restarts]).toEqual([before.keeperPid, before.restarts]);
    expect(alive(before.serverPid)).toBe(false);
  });

  test('after kill -9 of everything the next clipd brings the mounts back at their places', async () => {
    const own = await Clipctl.create();
    try {
      const [a, b] = [await own.place('a'), await own.place('b')];
      await own.ok('mount', '--clip', image.archive, '--at', a, '--suid');
      await own.ok('mount', '--clip', image.archive, '--at', b);
      const { keeperPid, serverPid } = await health(own);
      process.kill(keeperPid, 'SIGKILL');
      await eventually(() => !alive(serverPid) && !alive(keeperPid));
      // A zombie's other threads may still be letting go of /dev/fuse.
      await eventually(() => isDead(a));
      const c = await own.place('c');
      await own.ok('mount', '--clip', other.archive, '--at', c);
      for (const place of [a, b]) verify(place, image);
      verify(c, other);
      expect((await listed(own)).map((m) => [m.mountPoint, m.suid])).toEqual([
        [a, true],
        [b, false],
        [c, false],
      ]);
      // Each once: nothing is stacked on a dead mount.
      expect(own.mounts().filter((m) => m === a).length).toBe(1);
    } finally {
      await own.close();
    }
  });

  test('a dead mount without its clipd can be unmounted; a mount list of another format is refused', async () => {
    const own = await Clipctl.create();
    try {
      const place = await own.place('a');
      const second = await own.place('b');
      await own.ok('mount', '--clip', image.archive, '--at', place);
      await own.ok('mount', '--clip', other.archive, '--at', second);
      const { keeperPid, serverPid } = await health(own);
      process.kill(keeperPid, 'SIGKILL');
      await eventually(() => !alive(serverPid));
      await own.ok('umount', place);
      await own.ok('umount', second);
      expect(own.mounts()).toEqual([]);
      writeFileSync(own.path('root', 'mounts.json'), '{"format": 9, "connections": []}');
      const refused = await own.run(['mount', '--clip', image.archive, '--at', place]);
      expect([refused.code, refused.stderr]).toEqual([
        EXIT_CODES.UNSUPPORTED,
        expect.stringMatching(/mounts\.json: mount list of format 9/),
      ]);
      rmSync(own.path('root', 'mounts.json'));
      await own.ok('mount', '--clip', image.archive, '--at', place);
      // Of the dead connections' directories none is left.
      expect(readdirSync(own.path('root', 'mnt'))).toEqual(KERNEL ? ['1', '1-image'] : ['1']);
      await own.ok('daemon', '--stop');
      expect(readdirSync(own.path('root'))).toEqual(['clipd.log']);
    } finally {
      await own.close();
    }
  });

  test('clipctl daemon in the foreground serves until SIGTERM, and then everything ends within 5 s', async () => {
    const own = await Clipctl.create();
    try {
      let daemon: ChildProcess | undefined;
      const ended = own.run(['daemon'], {
        onStart: (child) => {
          daemon = child;
        },
      });
      await eventually(async () => (await own.run(['health'])).code === 0);
      const place = await own.place('a');
      await own.ok('mount', '--clip', image.archive, '--at', place);
      const holder = spawn('sleep', ['60'], { cwd: place });
      children.push(holder);
      const { serverPid } = await health(own);
      const started = performance.now();
      daemon!.kill('SIGTERM');
      expect((await ended).code).toBe(0);
      expect(performance.now() - started).toBeLessThan(5000);
      expect(alive(serverPid)).toBe(false);
      expect(own.mounts()).toEqual([]);
      expect(existsSync(own.path('root', 'clipd.sock'))).toBe(false);
    } finally {
      await own.close();
    }
  });

  test('--foreground stays, and Ctrl-C unmounts; so does Ctrl-C at any earlier point', async () => {
    const own = await Clipctl.create();
    try {
      const place = await own.place('a');
      let child: ChildProcess | undefined;
      const args = ['mount', '--clip', image.archive, '--at', place, '--foreground'];
      const onStart = (c: ChildProcess): void => {
        child = c;
      };
      const staying = own.run(args, { onStart });
      await eventually(async () => (await listed(own)).length === 1);
      verify(place, image);
      child!.kill('SIGINT');
      expect((await staying).code).toBe(130);
      expect(own.mounts()).toEqual([]);
      for (const delay of [30, 100, 160, 220, 300]) {
        const ran = own.run(args, { onStart });
        await new Promise((resolve) => setTimeout(resolve, delay));
        child!.kill('SIGINT');
        await ran;
        await eventually(() => own.mounts().length === 0 && !existsSync(own.path('root', 'clipd.sock')));
      }
    } finally {
      await own.close();
    }
  });

  test('the control socket is for its owner alone', async () => {
    await mount(image, 't');
    expect(statSync(clip.path('root', 'clipd.sock')).mode & 0o777).toBe(0o600);
    expect(statSync(clip.path('root')).mode & 0o777).toBe(0o700);
  });

  test('without /dev/fuse the error names the next step', async () => {
    const own = await Clipctl.create();
    try {
      const place = await own.place('a');
      const bin = new URL('../../../bin/clipctl.js', import.meta.url).pathname;
      const script = 'mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && exec "$@"';
      mkdirSync(own.path('root'), { recursive: true });
      const ran = await runProgram(
        'unshare',
        ['--mount', 'sh', '-c', script, 'sh', process.execPath, bin, 'mount', '--clip', image.archive, '--at', place],
        { env: own.env },
      );
      expect(ran.code).toBe(EXIT_CODES.UNSUPPORTED);
      expect(ran.stderr.split('\n')).toHaveLength(3);
      expect(ran.stderr).toMatch(/\/dev\/fuse: no such device\n.*modprobe fuse/);
    } finally {
      await own.close();
    }
  });
});
