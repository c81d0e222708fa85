import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { mountArchive } from '../../src/index.js';
import { Clipctl, type Ran } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually, health, sha256Of } from '../support/mounted.js';
import { spawnProxy } from '../support/proxy-process.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { dir, file, symlink, tar } from '../support/tar.js';

// clipctl prefetch: through the control API, from the registry, into the cache.

const FILES = ['app/a.so', 'app/deep/b.so', 'app/deep/c.txt', 'lib/real.so', 'other/d.so'];
const content = new Map(FILES.map((path, i) => [path, layerLike(1_500_000, i + 1)]));

let clip: Clipctl;
let registry: TestRegistry;
let archive: string;

beforeAll(async () => {
  registry = await startRegistry();
  clip = await Clipctl.create();
  archive = await indexed(clip, registry.host);
});
afterAll(async () => {
  await clip.close();
  await registry.stop();
});

async function indexed(own: Clipctl, host: string): Promise<string> {
  const image = writeImage([
    tar(
      ...['app', 'app/deep', 'lib', 'other'].map((path) => dir(path)),
      symlink('lib/link.so', 'real.so'),
      ...[...content].map(([path, bytes]) => file(path, bytes)),
      file('empty', ''),
    ),
  ]);
  try {
    await registry.push(image.reference, 'prefetch:latest');
    const path = own.path('prefetch.clip');
    await own.ok('index', '--image', `${host}/prefetch:latest`, '--out', path, '--checkpoint', '1');
    return path;
  } finally {
    image.remove();
  }
}

/** A mount with an empty cache of its own. */
async function fresh(use: (own: Clipctl, place: string) => Promise<void>, ...args: string[]): Promise<void> {
  const own = await Clipctl.create();
  try {
    const place = await own.place('mnt');
    await own.ok('mount', '--clip', archive, '--at', place, '--no-readahead', ...args);
    await use(own, place);
  } finally {
    await own.close();
  }
}

/** Compressed bytes that a reader had to wait for. */
async function demanded(own: Clipctl): Promise<number> {
  return (await own.stats()).counters.demandBytes!;
}

interface State {
  readonly state: string;
  readonly spans: { readonly total: number; readonly done: number };
  readonly bytes: { readonly total: number; readonly done: number };
}

function read(place: string, ...paths: string[]): void {
  for (const path of paths) {
    expect(sha256Of(readFileSync(`${place}/${path}`))).toBe(sha256Of(content.get(path)!));
  }
}

test('files, directories, globs and links: their files are cached afterwards, and no others', async () => {
  await fresh(async (own, place) => {
    const first = await own.json<State>('prefetch', place, '/app', '--wait');
    expect(first.state).toBe('done');
    expect(first.bytes.done).toBe(first.bytes.total);
    read(place, 'app/a.so', 'app/deep/b.so', 'app/deep/c.txt');
    expect(await demanded(own)).toBe(0);
    read(place, 'other/d.so');
    expect(await demanded(own)).toBeGreaterThan(0);
  });
  await fresh(async (own, place) => {
    expect((await own.json<State>('prefetch', place, '/lib/link.so', 'app/**/*.so', '--wait')).state).toBe('done');
    read(place, 'lib/real.so', 'app/a.so', 'app/deep/b.so');
    expect(await demanded(own)).toBe(0);
    // Named and empty is no mistake; an absent name is one.
    expect((await own.ok('prefetch', place, '/empty', '--wait')).stdout).toMatch(/^done\tnothing left to fetch\t/);
    const absent = await own.run(['prefetch', place, '/app', '/app/*.nothing']);
    expect([absent.code, absent.stderr]).toEqual([
      EXIT_CODES.NOT_FOUND,
      expect.stringMatching(/^clipctl: no \/app\/\*\.nothing in .*\n {2}\S/),
    ]);
    const profile = await own.run(['prefetch', place, '--profile']);
    expect([profile.code, profile.stderr]).toEqual([
      EXIT_CODES.NOT_FOUND,
      expect.stringMatching(/no profile of \S+ is known\n {2}\S/),
    ]);
  });
});

test('a first read that need not wait has its time in stats', async () => {
  await fresh(async (own, place) => {
    type Figures = { connections: { firstRead: number | null; hits: number }[]; counters: Record<string, number> };
    const figures = async (): Promise<Figures> => own.json('stats');
    expect((await own.json<State>('prefetch', place, '/app', '--wait')).state).toBe('done');
    expect((await figures()).connections).toMatchObject([{ firstRead: null, hits: 0 }]);
    read(place, 'app/a.so');
    const { connections, counters } = await figures();
    expect(connections[0]!.hits).toBeGreaterThan(0);
    expect(counters.demandBytes).toBe(0);
    expect(connections[0]!.firstRead).toBeGreaterThan(0);
  });
});

test('the whole image, also for the library', async () => {
  await fresh(async (own, place) => {
    expect((await own.ok('prefetch', place, '--wait')).stdout).toMatch(/^done\t/);
    read(place, ...FILES);
    const { counters } = await own.stats();
    expect(counters.demandBytes).toBe(0);
    expect(counters.fillBytes).toBeGreaterThan(0);
  });
  const mount = mountArchive({ archivePath: archive, mountPoint: await clip.place('library'), readahead: false });
  await mount.start();
  expect(await mount.prefetch({ paths: ['/app/a.so'] })).toMatchObject({ state: 'done', what: 'paths' });
  expect(await mount.prefetch()).toMatchObject({ state: 'done', what: 'image' });
  await expect(mount.prefetch({ paths: ['/nothing'] })).rejects.toMatchObject({ code: 'NOT_FOUND' });
  await mount.unmount();
});

test('status, cancel, Ctrl-C: a slow one runs on by itself until it is called off', async () => {
  await fresh(async (own, place) => {
    const begun = await own.json<State>('prefetch', place, '--rate', '200k');
    expect(begun.state).toBe('running');
    const [running] = await own.json<State[]>('prefetch', place, '--status');
    expect(running).toMatchObject({ state: 'running' });
    expect((await own.ok('prefetch', place, '--cancel')).stdout).toMatch(/^cancelled\t/);
    await eventually(async () => (await own.json<State[]>('prefetch', place, '--status'))[0]!.state === 'cancelled');
    let child: ChildProcess | undefined;
    const waiting = own.run(['prefetch', place, '--rate', '200k', '--wait'], {
      onStart: (started) => {
        child = started;
      },
    });
    await eventually(async () => (await own.json<State[]>('prefetch', place, '--status')).length === 2);
    child!.kill('SIGINT');
    expect(await waiting).toMatchObject({ code: 130, stdout: '', stderr: 'clipctl: interrupted\n' });
    expect((await own.json<State[]>('prefetch', place, '--status'))[1]!.state).toBe('cancelled');
  });
});

test('a killed server does not lose a prefetch that a client waits for', async () => {
  const proxy = await spawnProxy({ upstream: registry.url, bytesPerSecond: 0.8e6 });
  const own = await Clipctl.create();
  try {
    const slow = await indexed(own, proxy.host);
    const place = await own.place('mnt');
    await own.ok('mount', '--clip', slow, '--at', place, '--no-readahead');
    const waiting = own.run(['prefetch', place, '--wait']);
    for (let kills = 0; kills < 2; kills++) {
      await eventually(async () => (await own.json<State[]>('prefetch', place, '--status'))[0]?.state === 'running');
      process.kill((await health(own)).serverPid, 'SIGKILL');
    }
    const ran: Ran = await waiting;
    expect([ran.code, ran.stderr]).toEqual([0, '']);
    read(place, ...FILES);
    expect(await demanded(own)).toBe(0);
  } finally {
    await own.close();
    await proxy.stop();
  }
});

test('a cache without room, a registry that has gone, and refusals', async () => {
  await fresh(
    async (own, place) => {
      const ran = await own.run(['prefetch', place, '--wait']);
      expect([ran.code, ran.stdout]).toEqual([1, expect.stringMatching(/^incomplete\t/)]);
      expect(ran.stderr).toMatch(/^clipctl: not everything was fetched at .*no room for more/);
      for (const args of [
        ['--status', '--cancel'],
        ['--profile', '/a'],
        ['--rate', '1M', '/a'],
        ['--status', '--wait'],
      ]) {
        const usage = await own.run(['prefetch', place, ...args]);
        expect([usage.code, usage.stderr]).toEqual([2, expect.stringContaining('exclude each other')]);
      }
      const nowhere = await own.run(['prefetch', own.directory]);
      expect([nowhere.code, nowhere.stderr]).toEqual([
        EXIT_CODES.NOT_FOUND,
        expect.stringContaining('is not a clip mount of this clipd'),
      ]);
    },
    '--cache-size',
    '3M',
  );
});
