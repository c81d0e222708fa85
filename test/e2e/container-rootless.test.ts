import { chmodSync, chownSync, copyFileSync, existsSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl, type Ran, runProgram } from '../support/clipctl.js';
import { Stage } from '../support/container-images.js';

// Containers of an ordinary user ("nobody"): fusermount3 and fuse-overlayfs mount, runc makes a user namespace.

const NOBODY = 65534;
const bin = fileURLToPath(new URL('../../../bin/clipctl.js', import.meta.url));
const deviceMode = statSync('/dev/fuse').mode & 0o777;

let clip: Clipctl;
let home: string;
/** The program must be within the user's reach; a checkout below a closed home is not. */
let reachable = true;

beforeAll(async () => {
  clip = await Clipctl.create();
  chmodSync(clip.directory, 0o755);
  const image = new Stage().base().image({ Cmd: ['id', '-u'], Env: ['PATH=/bin'] });
  chmodSync(image.layout.directory, 0o755);
  home = clip.path('home');
  mkdirSync(home);
  await clip.ok('index', '--image', image.reference, '--out', clip.path('image.clip'));
  copyFileSync(clip.path('image.clip'), `${home}/image.clip`);
  chownSync(home, NOBODY, NOBODY);
  chmodSync('/dev/fuse', 0o666);
  for (let dir = dirname(bin); dir !== '/'; dir = dirname(dir)) reachable &&= (statSync(dir).mode & 0o001) !== 0;
});
afterAll(async () => {
  if (reachable) await user('daemon', '--stop');
  chmodSync('/dev/fuse', deviceMode);
  await clip.close();
});

function user(...args: string[]): Promise<Ran> {
  const ids = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'];
  return runProgram('setpriv', [...ids, process.execPath, bin, ...args], {
    cwd: home,
    env: { PATH: process.env.PATH, HOME: home, XDG_RUNTIME_DIR: home, XDG_CACHE_HOME: `${home}/cache` },
  });
}

test('runs as root of a user namespace, writes to its own layer, and leaves nothing', async (context) => {
  if (!reachable) return context.skip();
  const script = 'id -u; echo new > /etc/new; cat /etc/new; rm /etc/passwd; ls /etc; stat -c %u /bin/busybox';
  const ran = await user('run', '--rm', '--clip', 'image.clip', 'sh', '-c', script);
  expect([ran.code, ran.stdout, ran.stderr]).toEqual([0, '0\nnew\ngroup\nhostname\nhosts\nnew\nresolv.conf\n0\n', '']);
  const left = readdirSync(`${home}/clip`).filter((name) => !/^(clipd\..*|mounts\.json(\.new)?|reads)$/.test(name));
  expect(left).toEqual([]);
  expect(existsSync(`${home}/cache/clip/containers`) ? readdirSync(`${home}/cache/clip/containers`) : []).toEqual([]);
});

test('mount --cid, runc and umount --cid', async (context) => {
  if (!reachable) return context.skip();
  const mounted = await user('mount', '--clip', 'image.clip', '--cid', 'mine');
  expect([mounted.code, mounted.stdout]).toEqual([0, `${home}/clip/mine/rootfs\n`]);
  const gone = await user('umount', '--cid', 'mine');
  expect([gone.code, gone.stderr]).toEqual([0, '']);
  const twice = await user('mount', '--clip', 'image.clip', '--cid', 'other', '--overlay', 'kernel');
  expect([twice.code, twice.stderr]).toEqual([
    EXIT_CODES.PERMISSION,
    expect.stringMatching(/no permission to mount an overlay.*\n.*--overlay fuse/),
  ]);
  const memory = await user('mount', '--clip', 'image.clip', '--cid', 'third', '--tmpfs-upper', '1M');
  expect([memory.code, memory.stderr]).toEqual([
    EXIT_CODES.PERMISSION,
    expect.stringContaining('cannot mount a tmpfs'),
  ]);
});
