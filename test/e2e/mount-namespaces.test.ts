import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, readlinkSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { ClipdClient } from '../../src/client/index.js';
import { Clipctl, PROGRAM, type Ran, runProgram } from '../support/clipctl.js';
import { eventually, health, type IndexedImage, indexedImage, listed, sha256Of } from '../support/mounted.js';

// clipctl in mount namespaces of its own (unshare, a runc container), whose clipd runs in the host's.

let clip: Clipctl;
let image: IndexedImage;
let namespaces: Namespace[] = [];

/** A mount namespace that lives as long as its process. Its /mnt is empty. */
class Namespace {
  readonly process: ChildProcess;

  private constructor(process: ChildProcess) {
    this.process = process;
    namespaces.push(this);
  }

  static async make(...unshare: string[]): Promise<Namespace> {
    const script = 'mount -t tmpfs none /mnt && mkdir /mnt/a /mnt/b && echo ready && exec sleep infinity';
    const child = spawn('unshare', ['--mount', ...unshare, 'sh', '-c', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await new Promise((resolve, reject) => {
      child.stdout.once('data', resolve);
      child.once('close', () => reject(new Error('unshare has ended')));
    });
    return new Namespace(child);
  }

  get name(): string {
    return readlinkSync(`/proc/${this.process.pid}/ns/mnt`);
  }

  enter(...command: string[]): Promise<Ran> {
    const { pid } = this.process;
    return runProgram('nsenter', [`--mount=/proc/${pid}/ns/mnt`, '--', ...command], { env: clip.env });
  }

  clipctl(...args: string[]): Promise<Ran> {
    return this.enter(process.execPath, PROGRAM, ...args);
  }

  async ok(...args: string[]): Promise<string> {
    const ran = await this.clipctl(...args);
    expect([args, ran.code, ran.stderr]).toEqual([args, 0, '']);
    return ran.stdout;
  }

  /** Every byte of the image, as the namespace shows it. */
  async verify(place: string, of: IndexedImage): Promise<void> {
    for (const [path, hash] of of.hashes) {
      const ran = await this.enter('sha256sum', join(place, path));
      expect([path, ran.stdout.slice(0, 64)]).toEqual([path, hash]);
    }
  }

  async mounts(): Promise<string> {
    return (await this.enter('cat', '/proc/self/mountinfo')).stdout;
  }

  async end(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const ended = new Promise((resolve) => this.process.once('close', resolve));
    this.process.kill('SIGKILL');
    await ended;
  }
}

beforeAll(async () => {
  clip = await Clipctl.create();
  image = await indexedImage(clip, 'one', 1);
});
afterEach(async () => {
  for (const { mountPoint } of await listed(clip)) await clip.run(['umount', '--lazy', mountPoint]);
  for (const namespace of namespaces) await namespace.end();
  namespaces = [];
});
afterAll(async () => {
  image.remove();
  await clip.close();
});

/** A mount on the host, so that clipd runs there. */
async function onHost(...args: string[]): Promise<string> {
  const place = await clip.place('host');
  await clip.ok('mount', '--clip', image.archive, '--at', place, ...args);
  return place;
}

test.each(['fuse', 'kernel'])('a mount appears where its caller is, and nowhere else (--plane %s)', async (plane) => {
  const host = await onHost('--plane', plane);
  const there = await Namespace.make();
  expect(await there.ok('mount', '--plane', plane, image.archive, '/mnt/a')).toBe('/mnt/a\n');
  await there.verify('/mnt/a', image);
  expect(await there.mounts()).toMatch(
    plane === 'kernel' ? / \/mnt\/a ro,nosuid,nodev.* - erofs / : / \/mnt\/a ro,nosuid,nodev.* - fuse\.clip /,
  );
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(' /mnt/a ');

  const said = `${there.name}/mnt/a`;
  expect((await listed(clip)).map((one) => one.mountPoint)).toEqual([host, said]);
  const inside = JSON.parse(await there.ok('ps', '--json')) as { mountPoint: string }[];
  expect(inside.map((one) => one.mountPoint)).toEqual([host, '/mnt/a']);
  expect(await there.ok('stats', '/mnt/a')).toContain('fetched');
  expect((await clip.ok('stats', said)).stdout).toContain('fetched');
  // The host's is seen there, too, as a copy.
  expect(await there.ok('stats', host)).toContain('fetched');
  expect((await there.clipctl('stats', '/mnt/b')).code).toBe(EXIT_CODES.NOT_FOUND);

  const again = await there.clipctl('mount', image.archive, '/mnt/a');
  expect([again.code, again.stderr]).toEqual([
    EXIT_CODES.BUSY,
    expect.stringContaining('/mnt/a is a clip mount already'),
  ]);
  const user = spawn('nsenter', [
    `--mount=/proc/${there.process.pid}/ns/mnt`,
    'sh',
    '-c',
    'cd /mnt/a && echo && exec sleep infinity',
  ]);
  await new Promise((resolve) => user.stdout.once('data', resolve));
  const busy = await there.clipctl('umount', '/mnt/a');
  expect([busy.code, busy.stderr]).toEqual([
    EXIT_CODES.BUSY,
    expect.stringContaining(`/mnt/a is busy: sleep (pid ${user.pid}, cwd)`),
  ]);
  user.kill('SIGKILL');
  await new Promise((resolve) => user.once('close', resolve));
  await there.ok('umount', '/mnt/a');
  expect(await there.mounts()).not.toContain(' /mnt/a ');
  expect((await listed(clip)).map((one) => one.mountPoint)).toEqual([host]);
});

test('the host takes such a mount away by the name that ps shows, and never its own of the same path', async () => {
  const there = await Namespace.make();
  const host = await onHost();
  await there.ok('mount', image.archive, '/mnt/a');
  await there.ok('mount', image.archive, '/mnt/b');
  expect((await clip.run(['umount', '/mnt/a'])).code).toBe(EXIT_CODES.NOT_FOUND);
  await clip.ok('umount', `${there.name}/mnt/a`);
  expect(await there.mounts()).not.toContain(' /mnt/a ');
  await there.verify('/mnt/b', image);
  const copy = await there.clipctl('umount', host);
  expect([copy.code, copy.stderr]).toEqual([
    EXIT_CODES.CONFLICT,
    expect.stringMatching(/another mount namespace[\s\S]*nsenter/),
  ]);
  expect(sha256Of(readFileSync(`${host}/large`))).toBe(image.hashes.get('large'));
  await clip.ok('umount', host);
  await there.verify('/mnt/b', image);
});

test('places of two namespaces with one path are two', async () => {
  const host = await onHost();
  const [one, two] = [await Namespace.make(), await Namespace.make()];
  await one.ok('mount', image.archive, '/mnt/a');
  await two.ok('mount', image.archive, '/mnt/a');
  expect((await listed(clip)).map((place) => place.mountPoint)).toEqual([
    host,
    `${one.name}/mnt/a`,
    `${two.name}/mnt/a`,
  ]);
  await one.ok('umount', '/mnt/a');
  await two.verify('/mnt/a', image);
});

test('a mount ends with its namespace, and then clipd keeps nothing of it', async () => {
  const there = await Namespace.make();
  const host = await onHost();
  const other = await indexedImage(clip, 'ends', 3, 1e6);
  try {
    await there.ok('mount', other.archive, '/mnt/a');
    const { keeperPid } = await health(clip);
    expect(await listed(clip)).toHaveLength(2);
    await there.end();
    await eventually(async () => (await listed(clip)).length === 1);
    await eventually(async () => (await clip.json<{ connections: unknown[] }>('stats')).connections.length === 1);
    expect((await listed(clip))[0]!.mountPoint).toBe(host);
    expect(execFileSync('ls', ['-l', `/proc/${keeperPid}/fd`], { encoding: 'utf8' })).not.toContain('mnt:[');
    expect(readFileSync(clip.path('root/mounts.json'), 'utf8')).not.toContain('/mnt/a');
  } finally {
    other.remove();
  }
});

test('it outlives its server; after a kill of everything it is brought back, unless its namespace has ended', async () => {
  const host = await onHost();
  const [lives, ends] = [await Namespace.make(), await Namespace.make()];
  // The archive is where the callers are.
  for (const there of [lives, ends]) {
    await there.enter('cp', image.archive, '/mnt/own.clip');
    await there.ok('mount', '/mnt/own.clip', '/mnt/a');
  }
  const { serverPid, keeperPid } = await health(clip);
  process.kill(serverPid, 'SIGKILL');
  await lives.verify('/mnt/a', image);
  const name = ends.name;
  process.kill(keeperPid, 'SIGKILL');
  await eventually(() => !readFileSync('/proc/self/mountinfo', 'utf8').includes('keeper') && isGone(keeperPid));
  await ends.end();
  const log = await clip.ok('mount', '--clip', image.archive, '--at', host);
  expect(log.code).toBe(0);
  await lives.verify('/mnt/a', image);
  expect((await listed(clip)).map((place) => place.mountPoint).sort()).toEqual([host, `${lives.name}/mnt/a`].sort());
  expect(readFileSync(clip.path('root/clipd.log'), 'utf8')).toMatch(
    new RegExp(`${name.replace(/[[\]]/g, '\\$&')}.*its mount namespace has ended.*not brought back`),
  );
  await lives.ok('umount', '/mnt/a');
});

function isGone(pid: number): boolean {
  try {
    return /^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return true;
  }
}

test('clipctl daemon --stop takes it away there, too', async () => {
  await onHost();
  const there = await Namespace.make();
  await there.ok('mount', image.archive, '/mnt/a');
  await clip.ok('daemon', '--stop');
  expect(await there.mounts()).not.toContain(' /mnt/a ');
});

test('paths are looked up in the caller’s root, and lead nowhere else', async () => {
  await onHost();
  const there = await Namespace.make();
  const outside = await clip.place('outside');
  await there.enter('mount', '-t', 'tmpfs', 'none', outside);
  await there.enter('mkdir', join(outside, 'theirs'));
  // The host has no directory of this name.
  await there.ok('mount', image.archive, join(outside, 'theirs'));
  await there.enter('ln', '-s', '/mnt/b', '/mnt/link');
  expect(await there.ok('mount', image.archive, '/mnt/link')).toBe('/mnt/b\n');
  // By hand, because clipctl resolves links before it asks.
  const script = `
    const { ClipdClient } = await import(process.argv[1]);
    const [root, archivePath, mountPoint, mountNamespace] = process.argv.slice(2);
    await new ClipdClient(root).mount({ archivePath, mountPoint, mountNamespace, requestId: 'r' + Math.random() }).then(
      (mounted) => console.log(mounted.mountPoint),
      (error) => console.log(error.code + ': ' + error.message));`;
  const ask = async (mountPoint: string, archive = image.archive, namespace = there.name): Promise<string> => {
    const client = fileURLToPath(new URL('../../src/client/index.js', import.meta.url));
    const args = ['--input-type=module', '-e', script, client, clip.path('root'), archive, mountPoint, namespace];
    return (await there.enter(process.execPath, ...args)).stdout.trim();
  };
  expect(await ask('/mnt/link')).toMatch(/^PERMISSION: mount point .*ELOOP/);
  expect(await ask(`/proc/${process.pid}/root${outside}`)).toMatch(/^PERMISSION: mount point .*ELOOP/);
  expect(await ask('/mnt/a/../..')).toMatch(/^CONFLICT: .* the root of a mount namespace/);
  expect(await ask('/mnt/none')).toMatch(/^NOT_FOUND: mount point/);
  expect(await ask('/mnt/a', '/mnt/a')).toMatch(/^BAD_FORMAT: .*is not a file/);
  // It waits for itself otherwise.
  expect(await ask('/mnt/a', '/mnt/b/large')).toMatch(/^CONFLICT: .* is inside a clip mount/);
  // Another place than its own.
  expect(await ask('/mnt/a', image.archive, readlinkSync('/proc/self/ns/mnt'))).toMatch(
    /^CONFLICT: .*cannot find the process/,
  );
  expect(await ask('mnt:[1]/mnt/a')).toMatch(/^CONFLICT: .*only its own processes/);
  const mountPoint = `${there.name}/mnt/a`;
  const mountNamespace = readlinkSync('/proc/self/ns/mnt');
  await expect(
    new ClipdClient(clip.path('root')).mount({
      archivePath: image.archive,
      mountPoint,
      mountNamespace,
      requestId: 'x',
    }),
  ).rejects.toThrow('only its own processes');
});

test('what cannot work is refused with the remedy: a chroot, layers that only the caller has', async () => {
  await onHost();
  const there = await Namespace.make();
  await there.enter('mkdir', '/mnt/root');
  await there.enter('mount', '--rbind', '/', '/mnt/root');
  const rooted = await there.enter('chroot', '/mnt/root', process.execPath, PROGRAM, 'mount', image.archive, '/mnt');
  expect([rooted.code, rooted.stderr]).toEqual([
    EXIT_CODES.CONFLICT,
    expect.stringMatching(/its root is \/mnt\/root of its mount namespace \(chroot\)\n.*rslave.*nsenter/),
  ]);
  const layout = await clip.place('layout');
  await there.enter('sh', '-c', `mount -t tmpfs none ${layout} && cp -r ${await layoutDirectory()}/. ${layout}`);
  const index = await there.ok('index', `oci:${layout}`, '-o', '/mnt/theirs.clip');
  expect(index).toContain('/mnt/theirs.clip');
  const refused = await there.clipctl('mount', '/mnt/theirs.clip', '/mnt/a');
  expect([refused.code, refused.stderr]).toEqual([
    EXIT_CODES.CONFLICT,
    expect.stringMatching(/does not have .*layout, where the layers are\n.*same path/),
  ]);
});

test('also from a user namespace of root’s, which may not mount for itself elsewhere', async () => {
  await onHost();
  const there = await Namespace.make('--user', '--map-root-user');
  const inside = (...args: string[]): Promise<Ran> =>
    runProgram(
      'nsenter',
      ['--preserve-credentials', '--user', '--mount', '--target', String(there.process.pid), '--', ...args],
      {
        env: clip.env,
      },
    );
  const ran = await inside(process.execPath, PROGRAM, 'mount', image.archive, '/mnt/a');
  expect([ran.code, ran.stderr, ran.stdout]).toEqual([0, '', '/mnt/a\n']);
  const read = await inside('sha256sum', '/mnt/a/large');
  expect(read.stdout.slice(0, 64)).toBe(image.hashes.get('large'));
});

test('the service can do so with the rights that its unit leaves it', async () => {
  const own = await Clipctl.create();
  const unit = readFileSync(new URL('../../../contrib/clipd.service', import.meta.url), 'utf8');
  const kept = /^CapabilityBoundingSet=(.*)$/m.exec(unit)![1]!.split(' ');
  const rights = ['-all', ...kept.map((name) => `+${name.replace(/^CAP_/, '').toLowerCase()}`)].join(',');
  const daemon = [process.execPath, PROGRAM, 'daemon'];
  const service = runProgram('setpriv', ['--no-new-privs', '--inh-caps=-all', `--bounding-set=${rights}`, ...daemon], {
    env: own.env,
  });
  try {
    await eventually(async () => (await own.run(['health'])).code === 0, 30_000);
    const there = await Namespace.make();
    const env = [`CLIP_ROOT=${own.path('root')}`, `CLIP_CACHE_DIR=${own.path('cache')}`];
    const ran = await there.enter('env', ...env, process.execPath, PROGRAM, 'mount', image.archive, '/mnt/a');
    expect([ran.code, ran.stderr]).toEqual([0, '']);
    await there.verify('/mnt/a', image);
  } finally {
    await own.close();
    await service;
  }
});

/** Of the image that is mounted first. */
async function layoutDirectory(): Promise<string> {
  const { reference } = (await listed(clip))[0]!;
  return reference.replace(/^oci:(.*?)(:\w+)?$/, '$1');
}

/** The capabilities that Docker gives: none that mounts. */
const CAPABILITIES = [
  'CHOWN',
  'DAC_OVERRIDE',
  'FOWNER',
  'FSETID',
  'KILL',
  'SETGID',
  'SETUID',
  'SETPCAP',
  'NET_BIND_SERVICE',
];

test('in a runc container without any right to mount that has clipd’s socket bound in', async () => {
  await onHost();
  const bundle = await clip.place('bundle');
  const repository = realpathSync(dirname(dirname(PROGRAM)));
  const needed = [
    ...new Set([
      '/usr',
      '/etc',
      repository,
      dirname(dirname(realpathSync(process.execPath))),
      clip.path('root'),
      await layoutDirectory(),
    ]),
  ];
  const rootfs = join(bundle, 'rootfs');
  mkdirSync(join(rootfs, 'images/py'), { recursive: true });
  mkdirSync(join(rootfs, 'tmp'));
  writeFileSync(join(rootfs, 'own.clip'), readFileSync(image.archive));
  for (const name of ['bin', 'lib', 'lib64', 'sbin']) symlinkSync(`usr/${name}`, join(rootfs, name));
  const capabilities = CAPABILITIES.map((name) => `CAP_${name}`);
  const script = `set -e
    clipctl() { "${process.execPath}" "${PROGRAM}" "$@"; }
    clipctl mount /own.clip /images/py
    sha256sum /images/py/large
    grep -c ' /images/py ' /proc/self/mountinfo
    clipctl ps | grep -c '^/images/py	'
    mount -t tmpfs none /tmp 2>/dev/null && echo "it may mount"
    clipctl umount /images/py
    ls /images/py | wc -l`;
  const config = {
    ociVersion: '1.0.2',
    root: { path: rootfs },
    process: {
      user: { uid: 0, gid: 0 },
      args: ['sh', '-c', script],
      cwd: '/',
      env: [
        `CLIP_ROOT=${clip.path('root')}`,
        `CLIP_CACHE_DIR=${clip.path('cache')}`,
        'CLIP_PROGRESS=none',
        `PATH=${process.env.PATH}`,
      ],
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      noNewPrivileges: true,
    },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755'] },
      ...needed.map((path) => ({ destination: path, type: 'bind', source: path, options: ['rbind', 'rprivate'] })),
    ],
    linux: { namespaces: ['pid', 'mount', 'ipc', 'uts', 'network'].map((type) => ({ type })) },
  };
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(config));
  const before = (await listed(clip)).length;
  const ran = await runProgram('runc', ['run', '--bundle', bundle, `clip-ns-${process.pid}`]);
  expect([ran.code, ran.stderr]).toEqual([0, '']);
  const [mounted, sum, seen, listedThere, left] = ran.stdout.trim().split('\n');
  expect([mounted, sum!.slice(0, 64), seen, listedThere, left]).toEqual([
    '/images/py',
    image.hashes.get('large'),
    '1',
    '1',
    '0',
  ]);
  expect(await listed(clip)).toHaveLength(before);
});
