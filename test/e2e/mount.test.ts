import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism } from 'node:os';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { openArchive } from '../../src/archive/index.js';
import { type ErrorCode, EXIT_CODES } from '../../src/bytes/index.js';
import { bytesInput } from '../support/archives.js';
import { Clipctl, runProgram } from '../support/clipctl.js';
import {
  eventually,
  health,
  type IndexedImage,
  listed,
  type TwoImages,
  tidy,
  twoImages,
  verify,
} from '../support/mounted.js';

// clipctl mount as a user meets it: real mounts, real processes, no mocks. Needs root and /dev/fuse.

/** kernel-plane-mount.test.ts runs these tests over the kernel plane. */
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
  const ran = await clip.ok('mount', '--clip', of.archive, '--at', place, ...args);
  expect(ran.stdout).toBe(`${place}\n`);
  return place;
}

describe('mount and umount', () => {
  test('prints the mount point, answers, and serves every byte; umount leaves an empty directory', async () => {
    const place = await mount(image, 'a');
    verify(place, image);
    expect(readFileSync(`${place}/link`, 'utf8')).toBe('image 1\n');
    expect(() => writeFileSync(`${place}/new`, '')).toThrow(/EROFS/);
    const options = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .find((l) => l.includes(` ${place} `))!;
    expect(options).toMatch(KERNEL ? / ro,nosuid,nodev\b.* - erofs / : / ro,nosuid,nodev\b.* - fuse\.clip /);
    expect((await clip.ok('umount', place)).stdout).toBe('');
    expect(readdirSync(place)).toEqual([]);
    expect((await clip.run(['umount', place])).code).toBe(EXIT_CODES.NOT_FOUND);
  });

  test('places are resolved: a symlink, a trailing slash, a relative path', async () => {
    const place = await clip.place('b');
    symlinkSync(place, clip.path('b-link'));
    expect((await clip.ok('mount', '--clip', image.archive, '--at', `${clip.path('b-link')}/`)).stdout).toBe(
      `${place}\n`,
    );
    expect((await clip.run(['umount', 'b/'], { cwd: clip.directory })).code).toBe(0);
    rmSync(clip.path('b-link'));
  });

  test('--suid and --dev are per place', async () => {
    const plain = await mount(image, 'c');
    const suid = await mount(image, 'd', '--suid', '--dev');
    const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
    expect(lines.find((l) => l.includes(` ${plain} `))).toContain('nosuid,nodev');
    expect(lines.find((l) => l.includes(` ${suid} `))).not.toMatch(/nosuid|nodev/);
  });

  test('several places of one image share a connection; the first may go first', async () => {
    const [first, second] = [await mount(image, 'e'), await mount(image, 'f')];
    const third = await mount(other, 'g');
    const mounts = await listed(clip);
    const connection = (place: string): number => mounts.find((m) => m.mountPoint === place)!.connection;
    expect(connection(first)).toBe(connection(second));
    expect(connection(third)).not.toBe(connection(first));
    await clip.ok('umount', first);
    verify(second, image);
    verify(third, other);
  });

  test('the archive may be replaced or removed after the mount', async () => {
    const archive = clip.path('gone.clip');
    writeFileSync(archive, readFileSync(image.archive));
    const place = await clip.place('h');
    await clip.ok('mount', '--clip', archive, '--at', place, '--no-readahead');
    rmSync(archive);
    process.kill((await health(clip)).serverPid, 'SIGKILL');
    verify(place, image);
  });

  test('an unmount by another program is noticed', async () => {
    const place = await mount(image, 'i');
    expect((await runProgram('umount', [place])).code).toBe(0);
    await eventually(async () => (await listed(clip)).length === 0);
    await eventually(() => !readFileSync('/proc/self/mountinfo', 'utf8').includes(clip.path('root')));
    await mount(image, 'i');
  });

  test('the error of a busy mount names its holders; --lazy and --force end it', async () => {
    const place = await mount(image, 'j');
    const shell = spawn('sleep', ['60'], { cwd: `${place}/data` });
    children.push(shell);
    const refused = await clip.run(['umount', place]);
    expect(refused.code).toBe(EXIT_CODES.BUSY);
    expect(refused.stderr).toContain(`sleep (pid ${shell.pid}, cwd)`);
    expect(refused.stderr).toContain('--lazy');
    // Lazy: unmounted for others, while the holder goes on.
    await clip.ok('umount', '--lazy', place);
    expect(readdirSync(place)).toEqual([]);
    expect(readFileSync(`/proc/${shell.pid}/cwd/file-0`).length).toBe(10_000);
    shell.kill('SIGKILL');
    // Force: the holder is cut off. (With --paranoid the kernel has no files of its own that it could go on with.)
    const again = await mount(image, 'k', ...(KERNEL ? ['--paranoid'] : []));
    const fd = openSync(`${again}/large`, 'r');
    await clip.ok('umount', '--force', again);
    expect(() => readSync(fd, Buffer.alloc(10), 0, 10, 4_000_000)).toThrow(/ENOTCONN|ECONNABORTED|EIO/);
    closeSync(fd);
    await eventually(async () => (await clip.json<{ connections: unknown[] }>('stats')).connections.length === 0);
  });

  test('ps, stats and health agree', async () => {
    const place = await mount(image, 'l');
    const stats = await clip.json<{
      health: { mounts: number };
      connections: { places: string[] }[];
      counters: Record<string, number>;
      memory: { serverRss: number; keeperRss: number; serverPss: number; keeperPss: number };
    }>('stats');
    expect(stats.health.mounts).toBe(1);
    expect(stats.connections.map((c) => c.places)).toEqual([[place]]);
    expect(stats.memory.serverRss).toBeGreaterThan(30e6);
    expect(stats.memory.keeperRss).toBeGreaterThan(20e6);
    // Its own pages, and its share of Node's.
    for (const name of ['server', 'keeper'] as const) {
      const [pss, rss] = [stats.memory[`${name}Pss`], stats.memory[`${name}Rss`]];
      expect(pss).toBeGreaterThan(3e6);
      expect(pss).toBeLessThan(rss);
    }
    // All that a small image leaves in memory, once the server in reserve is there and what starts left is collected: 90 MB on two
    // cores. Each further core has two FUSE threads and one that inflates.
    // On Node 22 and 24 each thread has 4 MB more (docs/benchmarks.md, "Memory and start of processes"), and Node's file may be shared with no other process.
    const newer = Number.parseInt(process.versions.node, 10) >= 22;
    const most = (newer ? 210e6 : 130e6) + 20e6 * Math.max(0, availableParallelism() - 2);
    const all = async (): Promise<number> => {
      const { serverPss, keeperPss, standbyPss, clientPss } = (
        await clip.json<{ memory: Record<string, number> }>('stats')
      ).memory;
      return standbyPss === 0 ? Number.POSITIVE_INFINITY : serverPss! + keeperPss! + standbyPss! + clientPss!;
    };
    await eventually(async () => (await all()) < most, 60_000);
    expect((await clip.ok('ps')).stdout).toContain(place);
    expect((await clip.ok('health')).stdout).toMatch(/^ok: /);
  });
});

describe('refusals take one line and leave nothing behind', () => {
  const cases: [string, () => Promise<string[]>, RegExp, ErrorCode][] = [
    [
      'no such archive',
      async () => ['--clip', '/nonexistent.clip', '--at', clip.directory],
      /archive \/nonexistent\.clip does not exist/,
      'NOT_FOUND',
    ],
    [
      'a directory as archive',
      async () => ['--clip', clip.directory, '--at', clip.directory],
      /is not a file/,
      'BAD_FORMAT',
    ],
    [
      'something else than an archive',
      async () => ['--clip', '/etc/passwd', '--at', clip.directory],
      /not a \.clip archive/,
      'BAD_FORMAT',
    ],
    [
      'no such mount point',
      async () => ['--clip', image.archive, '--at', '/nonexistent/x'],
      /mount point \/nonexistent\/x does not exist/,
      'NOT_FOUND',
    ],
    [
      'a file as mount point',
      async () => ['--clip', image.archive, '--at', image.archive],
      /is not a directory/,
      'NOT_FOUND',
    ],
    [
      'an altered archive',
      async () => {
        const bytes = readFileSync(image.archive);
        const { sections } = openArchive(bytesInput(bytes));
        const tree = sections.find((section) => section.name === 'tree')!;
        bytes[tree.offset + (tree.storedLength >> 1)]! ^= 1;
        writeFileSync(clip.path('altered.clip'), bytes);
        return ['--clip', clip.path('altered.clip'), '--at', await clip.place('altered')];
      },
      /section tree/,
      'BAD_FORMAT',
    ],
    [
      'a truncated archive',
      async () => {
        writeFileSync(clip.path('short.clip'), readFileSync(image.archive).subarray(0, 500));
        return ['--clip', clip.path('short.clip'), '--at', await clip.place('short')];
      },
      /truncated/,
      'BAD_FORMAT',
    ],
  ];
  test.each(cases)('%s', async (_name, args, message, code) => {
    // A clipd of its own: it must not stay.
    const own = await Clipctl.create();
    try {
      const ran = await own.run(['mount', ...(await args())]);
      expect(ran.code).toBe(EXIT_CODES[code]);
      expect(ran.stderr.split('\n')[0]).toMatch(message);
      expect(ran.stderr).not.toMatch(/\bat .*\.js:/);
      await eventually(() => !existsSync(own.path('root', 'clipd.sock')));
      expect(own.mounts()).toEqual([]);
    } finally {
      await own.close();
    }
  });

  test('usage errors are 2', async () => {
    expect((await clip.run(['mount', '--clip', image.archive])).code).toBe(2);
    expect((await clip.run(['mount', '--at', '/mnt', '--clip', 'x', '--read-timeout', 'soon'])).code).toBe(2);
    // Said in the words of the command line, not of the request that it would have made.
    for (const [flag, value, expected] of [
      ['--read-timeout', '86401', 'seconds from 0.001 to 86400'],
      ['--workers', '65', 'a whole number from 1 to 64'],
    ] as const) {
      const ran = await clip.run(['mount', '--at', '/mnt', '--clip', 'x', flag, value]);
      expect([ran.code, ran.stderr]).toEqual([2, expect.stringContaining(expected)]);
    }
  });

  test('mounting over, into, or from within a clip mount', async () => {
    const place = await mount(image, 'm');
    const over = await clip.run(['mount', '--clip', other.archive, '--at', place]);
    expect([over.code, over.stderr]).toEqual([
      EXIT_CODES.BUSY,
      expect.stringContaining(`${place} is a clip mount already`),
    ]);
    const into = await clip.run(['mount', '--clip', other.archive, '--at', `${place}/etc`]);
    expect([into.code, into.stderr]).toEqual([EXIT_CODES.CONFLICT, expect.stringContaining('inside the clip mount')]);
  });

  test('an empty path is no directory, and clipd’s own directories are not hidden behind a mount', async () => {
    const empty = await clip.run(['mount', '--clip', image.archive, '--at', '']);
    expect([empty.code, empty.stderr]).toEqual([2, expect.stringContaining('the path of a directory is empty')]);
    await mount(image, 'p');
    for (const own of ['root', 'cache']) {
      const hides = await clip.run(['mount', '--clip', image.archive, '--at', clip.path(own)]);
      expect([hides.code, hides.stderr]).toEqual([
        EXIT_CODES.CONFLICT,
        expect.stringContaining(`would hide ${clip.path(own)}`),
      ]);
    }
  });

  test('options that conflict with the running clipd are named with both values', async () => {
    await mount(image, 'n', '--read-timeout', '20');
    const place = await clip.place('o');
    const timeout = await clip.run(['mount', '--clip', image.archive, '--at', place, '--read-timeout', '30']);
    expect([timeout.code, timeout.stderr]).toEqual([
      EXIT_CODES.CONFLICT,
      expect.stringMatching(/readTimeout 20, not 30/),
    ]);
    const cache = await clip.run(['mount', '--clip', image.archive, '--at', place, '--cache-dir', clip.path('x')]);
    expect(cache.code).toBe(EXIT_CODES.CONFLICT);
    expect(cache.stderr).toContain(clip.path('cache'));
    expect(cache.stderr).toContain(clip.path('x'));
    const workers = await clip.run(['mount', '--clip', image.archive, '--at', place, '--workers', '63']);
    const runs = Math.min(4, availableParallelism());
    expect([workers.code, workers.stderr]).toEqual([
      EXIT_CODES.CONFLICT,
      expect.stringContaining(`runs with --workers ${runs}, not with 63`),
    ]);
    // An equal value is no conflict, even if it is a default.
    await clip.ok(
      'mount',
      '--clip',
      image.archive,
      '--at',
      place,
      '--read-timeout',
      '20',
      '--cache-dir',
      clip.path('cache'),
      '--workers',
      String(runs),
    );
  });

  test('umount in another mount namespace does not take the mount from the host', async () => {
    const place = await mount(image, 'umount-elsewhere');
    const bin = new URL('../../../bin/clipctl.js', import.meta.url).pathname;
    const ran = await runProgram('unshare', ['--mount', process.execPath, bin, 'umount', place], { env: clip.env });
    expect([ran.code, ran.stderr]).toEqual([
      EXIT_CODES.CONFLICT,
      expect.stringMatching(/another mount namespace[\s\S]*nsenter/),
    ]);
    verify(place, image);
  });
});
