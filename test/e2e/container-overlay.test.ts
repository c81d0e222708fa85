import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  appendFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { mountFileSystem, unmount } from '../../src/linux/index.js';
import type { Stats } from '../../src/wire/index.js';
import { Clipctl, runProgram } from '../support/clipctl.js';
import { Stage } from '../support/container-images.js';
import type { TestImage } from '../support/images.js';
import { alive, eventually, health, sha256Of } from '../support/mounted.js';

// A writable layer over a clip mount: what the kernel's overlayfs asks of the file system below it, and many of them at once.

let clip: Clipctl;
let image: TestImage;
const LARGE = randomBytes(24e6);
const OTHER = randomBytes(4e6);

beforeAll(async () => {
  clip = await Clipctl.create();
  const stage = new Stage().base().file('data/large', LARGE).file('data/other', OTHER).directoryAt('data/sub');
  for (let i = 0; i < 20; i++) stage.file(`data/sub/file-${i}`, `content ${i}\n`);
  stage.directoryAt('repo');
  const git = (...args: string[]): void => {
    const identity = ['-c', 'user.name=clip', '-c', 'user.email=clip@example.com'];
    execFileSync('git', [...identity, '-C', stage.path('repo'), ...args], { stdio: 'ignore' });
  };
  git('init', '-q');
  for (let i = 0; i < 30; i++) stage.file(`repo/file-${i}`, `${i}`.repeat(100));
  git('add', '.');
  git('commit', '-q', '-m', 'first');
  image = stage.image({ Cmd: ['sh'] });
});
afterAll(async () => {
  image.remove();
  await clip.close();
});

const OPTIONS = [
  'xino=on',
  'index=on',
  'redirect_dir=on',
  'metacopy=on',
  'xino=on,index=on,redirect_dir=on,metacopy=on',
];

test('an overlay is served after clipctl umount of what is below it, and clipd ends after the overlay', async () => {
  const own = await Clipctl.create();
  try {
    const [lower, merged] = [await own.place('lower'), await own.place('merged')];
    const data = `lowerdir=${lower},upperdir=${await own.place('upper')},workdir=${await own.place('work')}`;
    await own.ok('mount', '--image', image.reference, '--at', lower, '--no-readahead', '--no-prefetch');
    mountFileSystem({ type: 'overlay', source: 'overlay', target: merged, flags: 0, data });
    await own.ok('umount', lower);
    // Bytes that nobody has read yet.
    expect(sha256Of(readFileSync(join(merged, 'data/large')))).toBe(sha256Of(LARGE));
    unmount(merged);
  } finally {
    await own.close();
  }
});

describe.each(OPTIONS)('overlayfs with "%s"', (options) => {
  let lower: string;
  let merged: string;
  const directory = clipPath(`overlay-${options}`);

  beforeAll(async () => {
    const at = directory();
    for (const name of ['lower', 'upper', 'work', 'merged']) mkdirSync(join(at, name), { recursive: true });
    lower = join(at, 'lower');
    merged = join(at, 'merged');
    await clip.ok('mount', '--image', image.reference, '--at', lower);
    const plain = (path: string): string => path.replaceAll(/[,:]/g, '\\$&');
    const data = [
      `lowerdir=${plain(lower)}`,
      `upperdir=${plain(join(at, 'upper'))}`,
      `workdir=${plain(join(at, 'work'))}`,
    ];
    mountFileSystem({
      type: 'overlay',
      source: 'overlay',
      target: merged,
      flags: 0,
      data: [...data, ...(options === '' ? [] : [options])].join(','),
    });
  });
  afterAll(async () => {
    unmount(merged);
    await clip.ok('umount', lower);
  });

  test('link(2) gives a second name of one inode, and rename(2) of it over the first works', () => {
    const file = join(merged, 'data/sub/file-0');
    const link = join(merged, 'data/sub/link');
    linkSync(file, link);
    expect(statSync(link).ino).toBe(statSync(file).ino);
    expect(statSync(file).nlink).toBe(2);
    renameSync(link, file);
    expect(readFileSync(file, 'utf8')).toBe('content 0\n');
    appendFileSync(link, 'more\n');
    expect(readFileSync(file, 'utf8')).toBe('content 0\nmore\n');
    unlinkSync(link);
  });

  test('git clone of a repository in the image', () => {
    const clone = join(merged, 'clone');
    execFileSync('git', ['-c', 'safe.directory=*', 'clone', '-q', join(merged, 'repo'), clone], { stdio: 'pipe' });
    expect(readFileSync(join(clone, 'file-7'), 'utf8')).toBe('7'.repeat(100));
    expect(readdirSync(clone)).toHaveLength(31);
  });

  test('random operations on it and on a plain directory come to the same, also when the kernel forgets its inodes', () => {
    const plain = join(dirname(merged), 'plain');
    mkdirSync(plain);
    const expected = new Map<string, string>();
    for (let i = 0; i < 20; i++) {
      const content = readFileSync(join(merged, `data/sub/file-${i}`), 'utf8');
      expected.set(`file-${i}`, content);
      writeFileSync(join(plain, `file-${i}`), content);
    }
    let seed = 12345;
    const random = (below: number): number => {
      seed = (seed * 1103515245 + 12345) % 2147483648;
      return Math.floor((seed / 2147483648) * below);
    };
    const roots = [join(merged, 'data/sub'), plain];
    const names = (): string[] => readdirSync(plain).sort();
    for (let i = 0; i < 400; i++) {
      const all = names();
      const one = all[random(all.length)]!;
      const other = random(3) === 0 ? `new-${i}` : all[random(all.length)]!;
      const outcomes = roots.map((root) => {
        const [a, b] = [join(root, one), join(root, other)];
        try {
          if (i % 5 === 0) appendFileSync(a, `${i}\n`);
          else if (i % 5 === 1) linkSync(a, b);
          else if (i % 5 === 2) renameSync(a, b);
          else if (i % 5 === 3 && all.length > 10) unlinkSync(a);
          else return readFileSync(a, 'utf8');
          return 'done';
        } catch (error) {
          return (error as NodeJS.ErrnoException).code;
        }
      });
      expect([i, outcomes[0]]).toEqual([i, outcomes[1]]);
      if (i % 40 === 0) writeFileSync('/proc/sys/vm/drop_caches', '2');
    }
    const view = (root: string): object =>
      Object.fromEntries(
        readdirSync(root)
          .sort()
          .map((name) => [name, [readFileSync(join(root, name), 'utf8'), statSync(join(root, name)).nlink]]),
      );
    expect(view(roots[0]!)).toEqual(view(roots[1]!));
  });
});

function clipPath(name: string): () => string {
  return () => clip.path(name);
}

describe('mount --cid', () => {
  const sha = (path: string): string => sha256Of(readFileSync(path));

  test('copies a large file up that nobody has read, renames and removes what the image has', async () => {
    const rootfs = (await clip.ok('mount', '--image', image.reference, '--cid', 'c1')).stdout.trim();
    expect(rootfs).toBe(clip.path('root/c1/rootfs'));
    appendFileSync(join(rootfs, 'data/large'), 'end');
    expect(sha(join(rootfs, 'data/large'))).toBe(sha256Of(Buffer.concat([LARGE, Buffer.from('end')])));
    renameSync(join(rootfs, 'data/other'), join(rootfs, 'data/renamed'));
    unlinkSync(join(rootfs, 'data/sub/file-3'));
    rmSync(join(rootfs, 'repo'), { recursive: true });
    mkdirSync(join(rootfs, 'repo'));
    linkSync(join(rootfs, 'data/sub/file-4'), join(rootfs, 'linked'));
    expect(statSync(join(rootfs, 'linked')).ino).toBe(statSync(join(rootfs, 'data/sub/file-4')).ino);
    expect(sha(join(rootfs, 'data/renamed'))).toBe(sha256Of(OTHER));
    expect(readdirSync(join(rootfs, 'repo'))).toEqual([]);
    expect(existsSync(join(rootfs, 'data/sub/file-3'))).toBe(false);
    await clip.ok('umount', '--cid', 'c1');
    expect([existsSync(clip.path('root/c1')), readdirSync(clip.path('cache/containers'))]).toEqual([false, []]);
  });

  test('the bundle is what runc runs by itself, with its own command if one is given', async () => {
    await clip.ok(
      'mount',
      '--image',
      image.reference,
      '--cid',
      'c2',
      '-e',
      'A=b',
      '--',
      'sh',
      '-c',
      'echo $A; hostname',
    );
    const out = execFileSync('runc', ['run', '--bundle', clip.path('root/c2'), 'c2'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    expect(out).toBe('b\nc2\n');
    await clip.ok('umount', '--cid', 'c2');
  });

  test('--upper keeps what was written, and only one container may use it', async () => {
    const upper = await clip.place('kept');
    await clip.ok('run', '--rm', '--upper', upper, image.reference, 'sh', '-c', 'echo kept > /written');
    expect(readFileSync(join(upper, 'upper/written'), 'utf8')).toBe('kept\n');
    const rootfs = (
      await clip.ok('mount', '--image', image.reference, '--cid', 'first', '--upper', upper)
    ).stdout.trim();
    expect(readFileSync(join(rootfs, 'written'), 'utf8')).toBe('kept\n');
    // What is kept is written to the disk; what goes with its container is not.
    const isVolatile = (of: string): boolean =>
      /\bvolatile\b/.test(
        readFileSync('/proc/self/mountinfo', 'utf8')
          .split('\n')
          .find((line) => line.includes(` ${of} `))!,
      );
    const other = (await clip.ok('mount', '--image', image.reference, '--cid', 'unkept')).stdout.trim();
    expect([isVolatile(rootfs), isVolatile(other)]).toEqual([false, true]);
    await clip.ok('umount', '--cid', 'unkept');
    const second = await clip.run(['mount', '--image', image.reference, '--cid', 'second', '--upper', upper]);
    expect([second.code, second.stderr]).toEqual([
      EXIT_CODES.BUSY,
      expect.stringContaining('is in use by the container first'),
    ]);
    await clip.ok('umount', '--cid', 'first');
    expect(existsSync(join(upper, 'upper/written'))).toBe(true);
    expect(readdirSync(clip.path('root')).includes('second')).toBe(false);
  });

  test('--read-only, --tmpfs-upper, and the predecessor’s flags', async () => {
    const [mounts, roots] = [await clip.place('mounts'), await clip.place('roots')];
    const flags = [
      '--kernel-overlay',
      '--mount-base',
      mounts,
      '--rootfs-base',
      roots,
      '--read-only',
      '--tmpfs-upper',
      '4M',
    ];
    const rootfs = (await clip.ok('mount', '--image', image.reference, '--cid', 'old', ...flags)).stdout.trim();
    expect(rootfs).toBe(join(roots, 'old'));
    expect(readFileSync(join(mounts, 'old/data/sub/file-1'), 'utf8')).toBe('content 1\n');
    expect(() => writeFileSync(join(rootfs, 'x'), '')).toThrow(/EROFS/);
    const out = execFileSync('runc', ['run', '--bundle', clip.path('root/old'), 'old'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    expect(out).toBe('');
    await clip.ok('umount', '--cid', 'old');
    expect([readdirSync(mounts), readdirSync(roots)]).toEqual([[], []]);
  });

  test('takes down a container that was never finished, and one whose state a crash cut', async () => {
    mkdirSync(clip.path('root/half/rootfs'), { recursive: true, mode: 0o700 });
    await clip.ok('mount', '--image', image.reference, '--cid', 'cut');
    writeFileSync(clip.path('root/cut/container.json'), '{"format":1,"id":"c');
    const ids = (await clip.json<{ id?: string; state?: string }[]>('ps')).map(({ id, state }) => `${id} ${state}`);
    expect(ids).toEqual(['cut mounted', 'half incomplete']);
    for (const id of ['half', 'cut']) await clip.ok('umount', '--cid', id);
    expect(readdirSync(clip.path('root')).filter((name) => ['half', 'cut'].includes(name))).toEqual([]);
    expect(readdirSync(clip.path('cache/containers'))).toEqual([]);
  });
});

describe('twenty containers of one image', () => {
  const ids = Array.from({ length: 20 }, (_, i) => `many-${process.pid}-${i}`);
  /** In the container, without a shell of ours in between. */
  const inside = (id: string, ...command: string[]): string =>
    execFileSync('runc', ['exec', id, ...command], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

  afterAll(async () => {
    for (const id of ids) await clip.run(['umount', '--cid', id, '--force']);
  });

  test('share one mount, fetch once, and notice nothing when the server is killed', async () => {
    await clip.ok('cache', 'prune', '--mounted');
    for (let i = 0; i < ids.length; i += 5) {
      await Promise.all(
        ids.slice(i, i + 5).map((id) => clip.ok('run', '-d', '--name', id, image.reference, 'sleep', '1000')),
      );
    }
    // That of an earlier test goes when the kernel lets go of its overlay.
    const places = async (): Promise<number[]> =>
      (await clip.json<Stats>('stats')).connections.map((connection) => connection.places.length);
    await eventually(async () => (await places()).length === 1);
    expect(await places()).toEqual([20]);
    const sums = new Set<string>();
    for (const [i, id] of ids.entries()) {
      if (i % 5 === 0) process.kill((await health(clip)).serverPid, 'SIGKILL');
      sums.add(inside(id, 'sha256sum', '/data/large').split(' ')[0]!);
      inside(id, 'sh', '-c', `echo ${id} > /mine`);
    }
    expect([...sums]).toEqual([sha256Of(LARGE)]);
    expect(inside(ids[7]!, 'cat', '/mine')).toBe(`${ids[7]}\n`);
    const { counters } = await clip.json<Stats>('stats');
    expect(counters.demandBytes! + counters.readaheadBytes!).toBeLessThan(LARGE.length + OTHER.length);
  });

  test('fail loudly when the keeper is killed; the next mount brings the image back, and umount --cid clears up', async () => {
    const { keeperPid, serverPid } = await health(clip);
    for (const pid of [keeperPid, serverPid]) process.kill(pid, 'SIGKILL');
    await eventually(() => !alive(keeperPid) && !alive(serverPid));
    // The read fails with a message, or `sh` dies of SIGBUS, because its own pages have left the kernel's cache.
    const ran = await runProgram('runc', ['exec', ids[0]!, 'sh', '-c', 'sha256sum /data/other']);
    expect(ran.code).not.toBe(0);
    expect(ran.stdout).not.toContain(sha256Of(OTHER));
    const place = await clip.place('again');
    await clip.ok('mount', '--image', image.reference, '--at', place);
    expect(sha256Of(readFileSync(join(place, 'data/other')))).toBe(sha256Of(OTHER));
    for (const id of ids) await clip.ok('umount', '--cid', id, '--force');
    await clip.ok('umount', place);
    expect(readdirSync(clip.path('root')).filter((name) => name.startsWith('many-'))).toEqual([]);
    expect(clip.mounts()).toEqual([]);
  });
});
