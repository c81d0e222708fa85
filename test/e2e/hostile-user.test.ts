import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  lchownSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClipError, EXIT_CODES } from '../../src/bytes/index.js';
import { ClipdClient, prepareMount } from '../../src/client/index.js';
import { flags, mountFileSystem, openFuseDevice, readMountInfo, unmount } from '../../src/linux/index.js';
import { Clipctl } from '../support/clipctl.js';
import { HOSTILE, hostileDirectory, runHostile, swapForLink } from '../support/hostile.js';
import { alive, eventually, health, type IndexedImage, indexedImage } from '../support/mounted.js';

// Another user of the machine against root's clipd.

let clip: Clipctl;
let image: IndexedImage;
/** The hostile user's home. */
let theirs: string;
/** Root's directory with a subdirectory; the hostile user would like to see something happen to it. */
let victim: string;

beforeAll(async () => {
  clip = await Clipctl.create();
  chmodSync(clip.directory, 0o755);
  image = await indexedImage(clip, 'image', 1, 1e5);
  theirs = hostileDirectory(clip.path('theirs'));
  victim = clip.path('victim');
  mkdirSync(join(victim, 'inside'), { recursive: true });
});
afterAll(async () => {
  image.remove();
  await clip.close();
});

/**
 * A FUSE mount of the hostile user's with a source of their choice: this is what fusermount3, which is set-uid root, does for
 * `-o subtype=clip,fsname=…`. @returns the connection's descriptor
 */
function forgedMount(directory: string, source: string): number {
  const fd = openFuseDevice();
  const data = `fd=${fd},rootmode=40000,user_id=${HOSTILE.uid},group_id=${HOSTILE.gid}`;
  mountFileSystem({ type: 'fuse.clip', source, target: directory, flags: flags.MS_NOSUID | flags.MS_NODEV, data });
  return fd;
}

/** What the hostile user may have prepared for root to write to or read from. */
function forgedRoot(name: string): { readonly root: string; readonly precious: string } {
  const root = hostileDirectory(join(theirs, name));
  const precious = clip.path(`precious-${name}`);
  writeFileSync(precious, 'precious', { mode: 0o600 });
  const place = { path: '/nowhere', suid: false, dev: false, requestId: 'x', mountedAt: 1 };
  const connection = { id: 1, identity: 'x', archivePath: '/x', anchor: `${root}/mnt/1`, places: [place] };
  const list = join(root, 'mounts.json');
  writeFileSync(list, JSON.stringify({ format: 1, connections: [{ ...connection, options: {}, detached: false }] }));
  chownSync(list, HOSTILE.uid, HOSTILE.gid);
  for (const link of ['mounts.json.new', 'clipd.lock', 'clipd.log', 'lock', 'version', 'spans']) {
    symlinkSync(precious, join(root, link));
    lchownSync(join(root, link), HOSTILE.uid, HOSTILE.gid);
  }
  return { root, precious };
}

const isMounted = (place: string): boolean => readMountInfo().some((mount) => mount.mountPoint === place);

test('a FUSE mount with a forged source makes clipctl umount trust nobody’s root', async () => {
  const { root, precious } = forgedRoot('forged');
  const place = hostileDirectory(join(theirs, 'forged-place'));
  for (const connection of ['alive', 'dead']) {
    const fd = forgedMount(place, `clip:${root}#1`);
    if (connection === 'dead') closeSync(fd);
    const umount = await clip.run(['umount', place]);
    expect([umount.code, umount.stderr]).toEqual([
      EXIT_CODES.NOT_FOUND,
      expect.stringContaining(`${place} is not a clip mount of this user`),
    ]);
    if (connection === 'dead') {
      const mount = await clip.run(['mount', '--clip', image.archive, '--at', place]);
      expect([mount.code, mount.stderr]).toEqual([
        EXIT_CODES.PERMISSION,
        expect.stringMatching(/is a dead FUSE mount|EACCES/),
      ]);
    }
    expect(readFileSync(precious, 'utf8')).toBe('precious');
    expect(isMounted(place)).toBe(true); // it is theirs
    unmount(place, 'lazy');
    if (connection === 'alive') closeSync(fd);
  }
});

test('a FUSE mount that claims to be of this very root is left to its owner when clipd starts', async () => {
  const place = hostileDirectory(join(theirs, 'claimed'));
  const fd = forgedMount(place, `clip:${clip.path('root')}#1`);
  const own = await clip.place('own');
  await clip.ok('mount', '--clip', image.archive, '--at', own);
  await clip.ok('umount', own);
  await clip.stop();
  expect(isMounted(place)).toBe(true);
  unmount(place, 'lazy');
  closeSync(fd);
});

/** The place has one of two names at any moment. */
async function unmountWherever(client: ClipdClient, home: string): Promise<void> {
  const left = (): boolean => readMountInfo().some((mount) => mount.mountPoint.startsWith(home));
  for (let i = 0; left(); i++) {
    const mountPoint = join(home, i % 2 === 0 ? 'parent/inside' : 'parent.directory/inside');
    await client.unmount({ mountPoint, mode: 'normal' }).catch((error: unknown) => {
      if (!(error instanceof ClipError) || error.code !== 'NOT_FOUND') throw error;
    });
  }
}

test('no image lands on a victim while a parent of its mount point is swapped for a link (250 tries)', async () => {
  const home = hostileDirectory(join(theirs, 'swapping'));
  await clip.ok('mount', '--clip', image.archive, '--at', await clip.place('first'));
  const client = new ClipdClient(clip.path('root'));
  const stop = await swapForLink(home, 'parent', victim, 'inside');
  const asked = join(home, 'parent/inside');
  let mounted = 0;
  try {
    for (let i = 0; i < 250; i++) {
      try {
        // Every tenth time as clipctl does it, resolving the path itself first.
        const request =
          i % 10 === 0
            ? await prepareMount({ archivePath: image.archive, mountPoint: asked }, {})
            : { archivePath: image.archive, mountPoint: asked, mountNamespace: (await client.health()).mountNamespace };
        await client.mount({ ...request, requestId: `try-${i}` });
        mounted++;
        await unmountWherever(client, home);
      } catch (error) {
        if (!(error instanceof ClipError)) throw error;
        expect(['PERMISSION', 'NOT_FOUND', 'BUSY']).toContain(error.code);
      }
      expect(readMountInfo().filter((mount) => mount.mountPoint.startsWith(victim))).toEqual([]);
    }
  } finally {
    await stop();
  }
  expect(mounted).toBeGreaterThan(0);
  await clip.stop();
  expect(readMountInfo().filter((mount) => mount.mountPoint.startsWith(home))).toEqual([]);
});

test('on SIGTERM clipd unmounts its own mount, wherever that has been moved, and nothing at its old path', async () => {
  const home = hostileDirectory(join(theirs, 'moving'));
  const place = hostileDirectory(join(hostileDirectory(join(home, 'a')), 'inside'));
  await clip.ok('mount', '--clip', image.archive, '--at', place);
  const { keeperPid } = await health(clip);
  renameSync(join(home, 'a'), join(home, 'b'));
  symlinkSync(victim, join(home, 'a'));
  mountFileSystem({ type: 'tmpfs', source: 'busy', target: join(victim, 'inside'), flags: flags.MS_NOSUID });
  writeFileSync(join(victim, 'inside/file'), 'in use');
  const held = openSync(join(victim, 'inside/file'), 'r');
  try {
    process.kill(keeperPid, 'SIGTERM');
    await eventually(() => !alive(keeperPid));
    expect(readFileSync(join(victim, 'inside/file'), 'utf8')).toBe('in use');
    expect(isMounted(join(home, 'b/inside'))).toBe(false);
  } finally {
    closeSync(held);
    unmount(join(victim, 'inside'), 'lazy');
  }
});

test('umount and ps know a place by where it is now', async () => {
  const home = hostileDirectory(join(theirs, 'renamed'));
  const place = hostileDirectory(join(hostileDirectory(join(home, 'a')), 'inside'));
  await clip.ok('mount', '--clip', image.archive, '--at', place);
  renameSync(join(home, 'a'), join(home, 'b'));
  const list = await clip.json<{ mountPoint: string }[]>('ps');
  expect(list.map((mount) => mount.mountPoint)).toEqual([join(home, 'b/inside')]);
  await clip.ok('umount', join(home, 'b/inside'));
  await clip.stop();
});

test.each(['root', 'cache-dir'])('a --%s that another user has made is not used', async (flag) => {
  const { root, precious } = forgedRoot(`as-${flag}`);
  const place = await clip.place(`place-${flag}`);
  const ran = await clip.run(['mount', '--clip', image.archive, '--at', place, `--${flag}`, root]);
  expect([ran.code, ran.stderr]).toEqual([
    EXIT_CODES.PERMISSION,
    expect.stringContaining(`${root} belongs to user ${HOSTILE.uid}, not to user 0`),
  ]);
  const daemon = await clip.run(['daemon', `--${flag}`, root]);
  expect([daemon.code, daemon.stderr]).toEqual([
    EXIT_CODES.PERMISSION,
    expect.stringContaining(`belongs to user ${HOSTILE.uid}`),
  ]);
  expect(readFileSync(precious, 'utf8')).toBe('precious');
  expect(existsSync(join(root, 'clipd.sock'))).toBe(false);
});

test('a --root or --cache-dir behind a link of another user, or open to others, is not used', async () => {
  const own = clip.path('own-root');
  mkdirSync(own);
  const link = join(theirs, 'link');
  symlinkSync(own, link);
  lchownSync(link, HOSTILE.uid, HOSTILE.gid);
  const place = await clip.place('place-link');
  for (const flag of ['--root', '--cache-dir']) {
    chmodSync(own, 0o755);
    const linked = await clip.run(['mount', '--clip', image.archive, '--at', place, flag, link]);
    expect([linked.code, linked.stderr]).toEqual([
      EXIT_CODES.PERMISSION,
      expect.stringContaining('a symbolic link that another user controls'),
    ]);
    chmodSync(own, 0o777);
    const open = await clip.run(['mount', '--clip', image.archive, '--at', place, flag, own]);
    expect([open.code, open.stderr]).toEqual([
      EXIT_CODES.PERMISSION,
      expect.stringMatching(/other users may write to .*\n.*chmod go-w/),
    ]);
  }
});

test('a false clipd gets no login', async () => {
  const heard = clip.path('heard');
  writeFileSync(heard, '');
  chownSync(heard, HOSTILE.uid, HOSTILE.gid);
  // In a directory of theirs, and in one of root's that they may write to.
  const open = clip.path('open-root');
  mkdirSync(open);
  chmodSync(open, 0o777);
  for (const root of [hostileDirectory(join(theirs, 'false')), open]) {
    const child = runHostile(
      `const { createServer } = require('net'), { appendFileSync } = require('fs');
       createServer((c) => c.on('data', (d) => appendFileSync(process.argv[2], d)))
         .listen(process.argv[1] + '/clipd.sock', () => process.stdout.write('listening'));`,
      [root, heard],
    );
    await new Promise((resolve) => child.stdout!.once('data', resolve));
    for (const args of [
      ['mount', '--clip', image.archive, '--at', await clip.place('false-place'), '--creds', 'user:secret'],
      ['ps'],
      ['umount', '/mnt'],
    ]) {
      const ran = await clip.run([...args, '--root', root]);
      expect([args[0], ran.code]).toEqual([args[0], EXIT_CODES.PERMISSION]);
      expect(ran.stderr).toMatch(/belongs to user|other users may write to/);
    }
    child.kill('SIGKILL');
  }
  expect(readFileSync(heard, 'utf8')).toBe('');
});

test('a socket of another user in root’s own directory is not asked', async () => {
  const root = clip.path('planted-root');
  mkdirSync(root, { mode: 0o755 });
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(join(root, 'clipd.sock'), resolve));
  lchownSync(join(root, 'clipd.sock'), HOSTILE.uid, HOSTILE.gid);
  const ran = await clip.run(['ps', '--root', root]);
  expect([ran.code, ran.stderr]).toEqual([
    EXIT_CODES.PERMISSION,
    expect.stringContaining('is not a socket of this user or root'),
  ]);
  server.close();
});

test('the keeper keeps what it needs of the environment, and no secret of the user who started it', async () => {
  const place = await clip.place('environment');
  const ran = await clip.run(['mount', '--clip', image.archive, '--at', place], {
    env: { CI_JOB_TOKEN: 'secret', AWS_PROFILE: 'kept' },
  });
  expect(ran.code).toBe(0);
  const { keeperPid, serverPid } = await health(clip);
  for (const pid of [keeperPid, serverPid]) {
    const environment = readFileSync(`/proc/${pid}/environ`, 'utf8');
    expect(environment).not.toContain('CI_JOB_TOKEN');
    expect(environment).toContain('AWS_PROFILE=kept');
  }
  await clip.ok('umount', place);
});

test('the hostile user cannot ask root’s clipd for anything', async () => {
  const program = `require('net').connect(process.argv[1]).on('error', (e) => console.log(e.code));`;
  const child = runHostile(program, [clip.path('root/clipd.sock')]);
  let text = '';
  for await (const chunk of child.stdout!) text += String(chunk);
  expect(text).toBe('EACCES\n');
  expect(dirname(clip.path('root'))).toBe(clip.directory);
});
