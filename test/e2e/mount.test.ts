import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { openArchive } from '../../src/archive/index.js';
import { type ErrorCode, EXIT_CODES } from '../../src/bytes/index.js';
import { bytesInput } from '../support/archives.js';
import { Clipctl, runProgram } from '../support/clipctl.js';
import {
  alive,
  eventually,
  health,
  type IndexedImage,
  indexedImage,
  isDead,
  listed,
  sha256Of,
} from '../support/mounted.js';

// clipctl mount as a user meets it: real mounts, real processes, no mocks. Needs root and /dev/fuse.

/** kernel-plane-mount.test.ts runs these tests over the kernel plane. */
const KERNEL = process.env.CLIP_PLANE === 'kernel';

let clip: Clipctl;
let image: IndexedImage;
let other: IndexedImage;
const children: ChildProcess[] = [];

beforeAll(async () => {
  clip = await Clipctl.create();
  image = await indexedImage(clip, 'one', 1);
  other = await indexedImage(clip, 'two', 2);
});
afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  for (const { mountPoint } of await listed(clip)) await clip.run(['umount', '--lazy', mountPoint]);
});
afterAll(async () => {
  image.remove();
  other.remove();
  await clip.close();
});

function verify(place: string, of: IndexedImage): void {
  for (const [path, hash] of of.hashes) expect(sha256Of(readFileSync(`${place}/${path}`)), path).toBe(hash);
}

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
    const most = 130e6 + 20e6 * Math.max(0, availableParallelism() - 2);
    const all = async (): Promise<number> => {
      const { serverPss, keeperPss, standbyPss } = (await clip.json<{ memory: Record<string, number> }>('stats'))
        .memory;
      return standbyPss === 0 ? Number.POSITIVE_INFINITY : serverPss! + keeperPss! + standbyPss!;
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
