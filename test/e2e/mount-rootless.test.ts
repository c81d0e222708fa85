import { chmodSync, chownSync, copyFileSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl, type Ran, runProgram } from '../support/clipctl.js';
import { alive, eventually, type IndexedImage, indexedImage } from '../support/mounted.js';

// clipctl as an ordinary user ("nobody"): fusermount3 mounts, state is in $XDG_RUNTIME_DIR and $XDG_CACHE_HOME.

const NOBODY = 65534;
const bin = fileURLToPath(new URL('../../../bin/clipctl.js', import.meta.url));
const deviceMode = statSync('/dev/fuse').mode & 0o777;

let clip: Clipctl;
let image: IndexedImage;
let home: string;
/** The program must be within the user's reach; a checkout below a closed home directory is not. */
let reachable = true;

beforeAll(async () => {
  clip = await Clipctl.create();
  chmodSync(clip.directory, 0o755);
  image = await indexedImage(clip, 'one', 1, 1e6);
  home = clip.path('home');
  mkdirSync(home);
  copyFileSync(image.archive, `${home}/one.clip`);
  chownSync(home, NOBODY, NOBODY);
  for (const name of ['a', 'b']) {
    mkdirSync(`${home}/${name}`);
    chownSync(`${home}/${name}`, NOBODY, NOBODY);
  }
  for (let dir = dirname(bin); dir !== '/'; dir = dirname(dir)) reachable &&= (statSync(dir).mode & 0o001) !== 0;
});
afterAll(async () => {
  if (reachable) await user('clipctl', 'daemon', '--stop');
  chmodSync('/dev/fuse', deviceMode);
  image.remove();
  await clip.close();
});

async function user(command: string, ...args: string[]): Promise<Ran> {
  const program = command === 'clipctl' ? [process.execPath, bin] : [command];
  const ids = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'];
  return await runProgram('setpriv', [...ids, ...program, ...args], {
    cwd: home,
    env: { PATH: process.env.PATH, HOME: home, XDG_RUNTIME_DIR: home, XDG_CACHE_HOME: `${home}/cache` },
  });
}

test('a device that is closed to the user is named, and nothing stays', async (context) => {
  if (!reachable) return context.skip();
  chmodSync('/dev/fuse', 0o600);
  const ran = await user('clipctl', 'mount', '--clip', 'one.clip', '--at', 'a');
  expect([ran.code, ran.stderr]).toEqual([
    EXIT_CODES.PERMISSION,
    expect.stringMatching(/^clipctl: \/dev\/fuse: permission denied\n.*chmod 666/),
  ]);
  await eventually(() => !readdirSync(`${home}/clip`).includes('clipd.sock'));
});

test('mounts, takes over after a kill, unmounts; each place is a connection of its own', async (context) => {
  if (!reachable) return context.skip();
  chmodSync('/dev/fuse', 0o666);
  for (const place of ['a', 'b']) {
    const ran = await user('clipctl', 'mount', '--clip', 'one.clip', '--at', place);
    expect([ran.code, ran.stdout, ran.stderr]).toEqual([0, `${home}/${place}\n`, '']);
  }
  const mounts = JSON.parse((await user('clipctl', 'ps', '--json')).stdout) as { connection: number }[];
  expect(new Set(mounts.map((mount) => mount.connection)).size).toBe(2);
  const { serverPid, keeperPid } = JSON.parse((await user('clipctl', 'health', '--json')).stdout) as {
    serverPid: number;
    keeperPid: number;
  };
  process.kill(serverPid, 'SIGKILL');
  const sums = await user('sha256sum', ...['a/large', 'b/data/file-3']);
  expect(sums.stdout.split('\n').map((line) => line.split(' ')[0])).toEqual([
    image.hashes.get('large'),
    image.hashes.get('data/file-3'),
    '',
  ]);
  expect((await user('clipctl', 'umount', 'a')).code).toBe(0);
  expect(readdirSync(`${home}/a`)).toEqual([]);
  // After everything was killed, the next clipd restores the mounts.
  process.kill(keeperPid, 'SIGKILL');
  await eventually(() => !alive(keeperPid));
  expect((await user('clipctl', 'mount', '--clip', 'one.clip', '--at', 'a')).code).toBe(0);
  expect((await user('cat', 'a/etc/name', 'b/etc/name')).stdout).toBe('image 1\nimage 1\n');
  const stopped = await user('clipctl', 'daemon', '--stop');
  expect([stopped.code, stopped.stderr]).toEqual([0, '']);
  expect(clip.mounts()).toEqual([]);
});

test('the error for options that need root names them', async (context) => {
  if (!reachable) return context.skip();
  chmodSync('/dev/fuse', 0o666);
  const suid = await user('clipctl', 'mount', '--clip', 'one.clip', '--at', 'a', '--suid');
  expect([suid.code, suid.stderr]).toEqual([
    EXIT_CODES.PERMISSION,
    expect.stringContaining('only root can mount with --suid'),
  ]);
  const foreign = await user('clipctl', 'mount', '--clip', 'one.clip', '--at', '/mnt');
  expect([foreign.code, foreign.stderr]).toEqual([
    EXIT_CODES.PERMISSION,
    expect.stringMatching(/no permission to mount on \/mnt/),
  ]);
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(home);
});
