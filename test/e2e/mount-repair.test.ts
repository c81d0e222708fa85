import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { mountArchive } from '../../src/index.js';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import {
  alive,
  eventually,
  health,
  type IndexedImage,
  isDead,
  listed,
  sha256Of,
  type TwoImages,
  twoImages,
} from '../support/mounted.js';
import { startProxy } from '../support/proxy.js';
import { LOGIN, startRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

// Mounting where something is already: dead mounts of killed clipds, and other places of the same image.

let clip: Clipctl;
let image: IndexedImage;
let other: IndexedImage;
let close: TwoImages['close'];

beforeAll(async () => {
  ({ clip, image, other, close } = await twoImages(1e5));
});
afterAll(() => close());

async function withOwn(use: (own: Clipctl) => Promise<void>): Promise<void> {
  const own = await Clipctl.create();
  try {
    await use(own);
  } finally {
    await own.close();
  }
}

async function killEverything(own: Clipctl, ...places: string[]): Promise<void> {
  const { keeperPid, serverPid } = await health(own);
  process.kill(keeperPid, 'SIGKILL');
  await eventually(() => !alive(serverPid) && !alive(keeperPid));
  for (const place of places) await eventually(() => isDead(place));
}

const name = (place: string): string => readFileSync(`${place}/etc/name`, 'utf8');

test('after kill -9 of everything, clipctl mount at the same place succeeds; another image there is refused by name', async () => {
  await withOwn(async (own) => {
    const [a, b] = [await own.place('a'), await own.place('b')];
    await own.ok('mount', '--clip', image.archive, '--at', a);
    await own.ok('mount', '--clip', other.archive, '--at', b, '--suid');
    await killEverything(own, a, b);
    const list = await own.ok('ps');
    expect([list.stdout, list.stderr]).toEqual(['', expect.stringMatching(`are dead: ${a}, ${b}\n {2}\\S`)]);
    expect((await own.ok('mount', '--clip', image.archive, '--at', a)).stdout).toBe(`${a}\n`);
    expect([name(a), name(b)]).toEqual(['image 1\n', 'image 2\n']);
    expect(own.mounts().filter((place) => place === a).length).toBe(1);
    // It is an ordinary mount now.
    expect((await own.run(['mount', '--clip', image.archive, '--at', a])).stderr).toContain('is a clip mount already');
    // The other one was restored with it, and no client has asked for it yet.
    const wrong = await own.run(['mount', '--clip', image.archive, '--at', b]);
    expect([wrong.code, wrong.stderr]).toEqual([
      EXIT_CODES.BUSY,
      expect.stringContaining(`${b} was mounted again, with ${other.archive}, after clipd was killed`),
    ]);
    const flags = await own.run(['mount', '--clip', other.archive, '--at', b]);
    expect([flags.code, flags.stderr]).toEqual([
      EXIT_CODES.CONFLICT,
      expect.stringContaining('with suid true, not false'),
    ]);
    await own.ok('mount', '--clip', other.archive, '--at', b, '--suid');
    await own.ok('umount', b);
    expect(readdirSync(b)).toEqual([]);
  });
});

test('a foreign mount on top of a place is not unmounted with it: not by umount, not at the end, not by a repair', async () => {
  await withOwn(async (own) => {
    const place = await own.place('a');
    const system = (...command: [string, ...string[]]): void => {
      expect(spawnSync(command[0], command.slice(1)).status).toBe(0);
    };
    const stacked = (): number => own.mounts().filter((mount) => mount === place).length;
    await own.ok('mount', '--clip', image.archive, '--at', place);
    system('mount', '-t', 'tmpfs', 'above', place);
    try {
      writeFileSync(`${place}/precious`, 'x');
      for (const how of [[], ['--lazy'], ['--force']]) {
        const ran = await own.run(['umount', ...how, place]);
        expect([ran.code, ran.stderr]).toEqual([
          EXIT_CODES.CONFLICT,
          expect.stringContaining(`${place} is covered by another mount (tmpfs, above)`),
        ]);
      }
      await own.ok('daemon', '--stop');
      expect(readdirSync(place)).toEqual(['precious']);
      await own.ok('mount', '--clip', other.archive, '--at', await own.place('b'));
      expect(readdirSync(place)).toEqual(['precious']);
    } finally {
      system('umount', place);
    }
    expect(stacked()).toBe(1);
    await own.ok('umount', place);
    expect(stacked()).toBe(0);
  });
});

test('a dead mount of another root, whose clipd does not run, is removed and does not come back', async () => {
  await withOwn(async (own) => {
    const [place, second] = [await own.place('a'), await own.place('b')];
    await own.ok('mount', '--clip', image.archive, '--at', place);
    await own.ok('mount', '--clip', image.archive, '--at', second);
    await killEverything(own, place);
    const ran = await clip.ok('mount', '--clip', other.archive, '--at', place);
    expect([ran.stdout, name(place)]).toEqual([`${place}\n`, 'image 2\n']);
    await own.ok('mount', '--clip', image.archive, '--at', await own.place('c'));
    expect((await listed(own)).map((m) => m.mountPoint)).toEqual([second, own.path('c')]);
    expect(name(place)).toBe('image 2\n');
    await clip.ok('umount', place);
    await clip.stop();
  });
});

test('mountArchive() at the dead place of an engine that was killed', async () => {
  process.env.XDG_RUNTIME_DIR = await clip.place('run');
  const place = await clip.place('library');
  try {
    const first = mountArchive({ archivePath: image.archive, mountPoint: place });
    await first.start();
    const { keeperPid, serverPid } = (await first.stats()).health;
    process.kill(keeperPid, 'SIGKILL');
    // A listing that the server still answers stays in the kernel's cache, and is given out by a dead mount, too.
    await eventually(() => !alive(serverPid));
    await eventually(() => isDead(place));
    await first.closed;
    const second = mountArchive({ archivePath: image.archive, mountPoint: place });
    await second.start();
    expect(name(place)).toBe('image 1\n');
    await second.unmount();
    expect(readdirSync(place)).toEqual([]);
    expect(readdirSync(clip.path('run'))).toEqual([]);
  } finally {
    delete process.env.XDG_RUNTIME_DIR;
  }
});

test('a further place has the options of the image’s mount: a note names those that it did not set, a contradiction is refused', async () => {
  await withOwn(async (own) => {
    const mount = async (at: string, ...args: string[]) =>
      own.run(['mount', '--clip', image.archive, '--at', await own.place(at), ...args]);
    expect((await mount('a', '--no-readahead', '--read-timeout', '20')).stderr).toBe('');
    const second = await mount('b');
    expect([second.code, second.stderr]).toEqual([
      0,
      'clipctl: note: the image is mounted already with --no-readahead --read-timeout 20, which also applies here\n',
    ]);
    expect((await mount('c', '--no-readahead', '--read-timeout', '20')).stderr).toBe('');
    const fill = await mount('d', '--fill');
    expect([fill.code, fill.stderr]).toEqual([EXIT_CODES.CONFLICT, expect.stringMatching(/fill false, not true/)]);
    const url = { CLIP_CONTENT_CACHE: 'redis://:secret@127.0.0.1:1' };
    const content = await own.run(['mount', '--clip', image.archive, '--at', await own.place('e')], { env: url });
    expect([content.code, content.stderr]).toEqual([
      EXIT_CODES.CONFLICT,
      expect.stringMatching(/without --content-cache, not with redis:\/\/…@127\.0\.0\.1:1/),
    ]);
  });
});

test('the login of a later place is used, and when it is refused the one before', async () => {
  const registry = await startRegistry({ auth: 'basic' });
  const made = writeImage([tar(file('first', layerLike(3e6, 1)), file('second', layerLike(3e6, 2)))]);
  try {
    await registry.push(made.reference, 'private:latest');
    const right = `${LOGIN.username}:${LOGIN.password}`;
    await withOwn(async (own) => {
      const archive = own.path('private.clip');
      const docker = { DOCKER_CONFIG: own.path('no-docker') };
      const reference = `${registry.host}/private:latest`;
      await own.ok('index', '--image', reference, '--out', archive, '--creds', right, '--checkpoint', '1');
      const mount = async (at: string, creds: string): Promise<string> => {
        const place = await own.place(at);
        const args = ['mount', '--clip', archive, '--at', place, '--no-readahead', '--no-prefetch', '--creds', creds];
        expect((await own.run(args, { env: docker })).stderr).toBe('');
        return place;
      };
      const a = await mount('a', 'clip:old');
      expect(() => readFileSync(`${a}/first`)).toThrow(/EIO/);
      const b = await mount('b', right);
      expect(sha256Of(readFileSync(`${a}/first`))).toBe(sha256Of(layerLike(3e6, 1)));
      await mount('c', 'clip:wrong');
      // Also for the next server, which gets them from the keeper.
      process.kill((await health(own)).serverPid, 'SIGKILL');
      expect(sha256Of(readFileSync(`${b}/second`))).toBe(sha256Of(layerLike(3e6, 2)));
    });
  } finally {
    made.remove();
    await registry.stop();
  }
});

test('a node that boots without its registry has its mounts; spans that are not cached come with the registry', async () => {
  const registry = await startRegistry();
  const proxy = await startProxy({ upstream: registry.url });
  const made = writeImage([tar(file('cached', layerLike(3e6, 3)), file('missing', layerLike(3e6, 4)))]);
  try {
    await registry.push(made.reference, 'app:latest');
    await withOwn(async (own) => {
      const archive = own.path('app.clip');
      await own.ok('index', '--image', `${proxy.host}/app:latest`, '--out', archive, '--checkpoint', '1');
      const place = await own.place('a');
      const flags = ['--no-readahead', '--no-prefetch', '--read-timeout', '2'];
      await own.ok('mount', '--clip', archive, '--at', place, ...flags);
      // Never synchronously: the proxy lives in this process.
      const cached = sha256Of(await readFile(`${place}/cached`));
      await killEverything(own, place);
      proxy.fault = () => ({ refuse: true });
      const daemon = own.run(['daemon']);
      await eventually(async () => (await own.run(['health'])).code === 0);
      expect(sha256Of(await readFile(`${place}/cached`))).toBe(cached);
      await expect(readFile(`${place}/missing`)).rejects.toThrow(/EIO/);
      proxy.fault = null;
      expect(sha256Of(await readFile(`${place}/missing`))).toBe(sha256Of(layerLike(3e6, 4)));
      await own.ok('daemon', '--stop');
      expect((await daemon).code).toBe(0);
      expect(existsSync(own.path('root', 'mounts.json'))).toBe(false);
    });
  } finally {
    made.remove();
    await proxy.stop();
    await registry.stop();
  }
});
