import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { dirname } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Clipctl, PROGRAM, runProgram } from '../support/clipctl.js';
import { own, RUNTIMES, Stage } from '../support/container-images.js';
import type { TestImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';

// Networks of a container's own, by the CNI plugins and by pasta, with a server in it that is asked from outside.

const KINDS = ['bridge', 'private'] as const;
const NOBODY = 65534;
/** Serves until it is told to end: the first process of a PID namespace ignores signals that it does not catch. */
const SERVE = 'trap "exit 7" TERM; httpd -p 80 -h /www; ls /sys/class/net; while :; do sleep 0.05; done';
const tunMode = existsSync('/dev/net/tun') ? statSync('/dev/net/tun').mode & 0o777 : 0;

let clip: Clipctl;
let image: TestImage;

beforeAll(async () => {
  clip = await Clipctl.create();
  const stage = new Stage().base().file('www/index.html', 'from inside\n');
  stage.file('usr/bin/echo-back', '#!/bin/sh\nread -r line; echo "back: $line"\n', 0o755);
  image = stage.image({ Env: ['PATH=/bin:/usr/bin'], Cmd: ['sh', '-c', SERVE] });
});
afterEach(async () => {
  const left = containers();
  for (const id of left) await clip.run(['umount', '--cid', id, '--force']);
  expect(left).toEqual([]);
});
afterAll(async () => {
  image.remove();
  await clip.close();
});

function containers(): string[] {
  const clipd = /^(clipd\..*|mounts\.json(\.new)?|mnt|reads)$/;
  return existsSync(clip.path('root')) ? readdirSync(clip.path('root')).filter((name) => !clipd.test(name)) : [];
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

const ask = async (port: number): Promise<string | null> =>
  await fetch(`http://127.0.0.1:${port}/`, { signal: AbortSignal.timeout(5000) }).then(
    (response) => response.text(),
    () => null,
  );

/** Everything that a container's network leaves in the machine: rules, addresses, namespaces, processes. */
function traces(id: string): string[] {
  const rules = execFileSync('iptables-save', ['-t', 'nat'], { encoding: 'utf8' }).split('\n');
  const leases = existsSync('/run/clip-networks/clip') ? readdirSync('/run/clip-networks/clip') : [];
  const held = leases.filter((name) => /^\d+\./.test(name));
  const owners = held.map((name) => execFileSync('cat', [`/run/clip-networks/clip/${name}`], { encoding: 'utf8' }));
  const processes = execFileSync('ps', ['-eo', 'stat=,args='], { encoding: 'utf8' }).split('\n');
  return [
    ...rules.filter((line) => line.includes(`id: \\"${id}\\"`)),
    ...owners.filter((text) => text.startsWith(id)),
    ...clip.mounts().filter((path) => path.endsWith(`/${id}/netns`)),
    ...processes.filter((line) => line.includes(`/${id}/pasta.pid`)),
  ];
}

describe.each(RUNTIMES)('with %s', (runtime) => {
  test.each(KINDS)('--net %s: a server is reached through its published port, and nothing is left', async (net) => {
    const port = await freePort();
    let child: ChildProcess | undefined;
    const running = clip.run(
      [
        ...['run', '--rm', '--name', own('served'), '--runtime', runtime],
        ...['--net', net, '-p', `127.0.0.1:${port}:80`, image.reference],
      ],
      { onStart: (started) => (child = started) },
    );
    await eventually(async () => (await ask(port)) === 'from inside\n');
    const [listed] = await clip.json<{ ports: string[] }[]>('ps');
    expect(listed?.ports).toEqual([`127.0.0.1:${port}/tcp -> 80`]);
    expect(traces(own('served'))).not.toEqual([]);
    child!.kill('SIGTERM');
    const ran = await running;
    // Its interfaces are its own: loopback and one more.
    expect([ran.code, ran.stderr, ran.stdout.trim().split('\n')]).toEqual([7, '', [expect.any(String), 'lo']]);
    expect(await ask(port)).toBeNull();
    await eventually(() => traces(own('served')).length === 0);
  });
});

test('-p alone makes a network of the container’s own; without --rm, its end gives the port back', async () => {
  const port = await freePort();
  const script = 'ls /sys/class/net; cat /etc/hosts';
  const ran = await clip.ok('run', '--name', own('ended'), '-p', `${port}:80`, image.reference, 'sh', '-c', script);
  expect(ran.stdout).toMatch(/^eth0\nlo\n(?:.*\n)*10\.86\.\d+\.\d+\tended-\d+\n/);
  expect(traces(own('ended'))).toEqual([]);
  await clip.ok('run', '--rm', '-p', `${port}:80`, image.reference, 'true');
  await clip.ok('umount', '--cid', own('ended'));
});

test.each(KINDS)('--net %s: UDP and ranges', async (net) => {
  const port = await freePort();
  const script = 'nc -u -l -p 5353 -e echo-back & nc -l -p 5354 -e echo-back & echo ready; wait';
  const flags = ['-p', `127.0.0.1:${port}:5353/udp`, '-p', `127.0.0.1:${port}-${port}:5354-5354`];
  await clip.ok('run', '-d', '--name', own('udp'), '--net', net, ...flags, image.reference, 'sh', '-c', script);
  const send = (...more: string[]): string =>
    execFileSync('busybox', ['nc', ...more, '-w', '2', '127.0.0.1', String(port)], {
      input: 'word\n',
      encoding: 'utf8',
    });
  await eventually(() => {
    try {
      return send() === 'back: word\n';
    } catch {
      return false;
    }
  });
  await clip.ok('umount', '--cid', own('udp'), '--force');
});

test.each(KINDS)('--net %s: lives on when clipctl is killed, and umount --cid takes it all down', async (net) => {
  const port = await freePort();
  const args = [PROGRAM, 'run', '--rm', '--name', own('orphan'), '--net', net, '-p', `${port}:80`, image.reference];
  const child = spawn(process.execPath, args, { env: clip.env, stdio: 'ignore' });
  const ended = once(child, 'exit');
  await eventually(async () => (await ask(port)) !== null);
  child.kill('SIGKILL');
  await ended;
  expect(await ask(port)).toBe('from inside\n');
  await clip.ok('umount', '--cid', own('orphan'), '--force');
  expect(await ask(port)).toBeNull();
  await eventually(() => traces(own('orphan')).length === 0);
});

test.each(KINDS)('mount --cid --net %s: the network is there for runc', async (net) => {
  const port = await freePort();
  await clip.ok('mount', '--image', image.reference, '--cid', own('bundle'), '--net', net, '-p', `${port}:80`);
  const child = spawn('runc', ['run', '--bundle', clip.path('root', own('bundle')), own('net')], { stdio: 'ignore' });
  await eventually(async () => (await ask(port)) === 'from inside\n');
  execFileSync('runc', ['kill', own('net'), 'TERM']);
  await once(child, 'exit');
  await clip.ok('umount', '--cid', own('bundle'));
  await eventually(() => traces(own('bundle')).length === 0);
});

test('a plugin that fails when the container is taken down: an error, and the rest goes all the same', async () => {
  const plugins = await clip.place('plugins');
  const real = ['/usr/lib/cni/firewall', '/opt/cni/bin/firewall'].find((path) => existsSync(path));
  const fail = `${real} > /dev/null; echo '{"code":100,"msg":"broken on purpose"}'; exit 1`;
  writeFileSync(`${plugins}/firewall`, `#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] && exec ${real}\n${fail}\n`, {
    mode: 0o755,
  });
  const env = { CNI_PATH: plugins };
  const mounted = await clip.run(['mount', '--image', image.reference, '--cid', own('broken'), '--net', 'bridge'], {
    env,
  });
  expect([mounted.code, mounted.stderr]).toEqual([0, '']);
  const ran = await clip.run(['umount', '--cid', own('broken')], { env });
  expect([ran.code, ran.stderr]).toEqual([
    1,
    expect.stringMatching(/firewall failed: broken on purpose\n {2}it needs root/),
  ]);
  expect([containers(), traces(own('broken'))]).toEqual([[], []]);
});

test('says which port is in use, and by which container', async () => {
  const port = await freePort();
  const server = createServer().listen(port, '127.0.0.1');
  await once(server, 'listening');
  const taken = await clip.run(['run', '--rm', '-p', `${port}:80`, image.reference]);
  server.close();
  expect([taken.code, taken.stderr]).toEqual([125, expect.stringContaining(`0.0.0.0:${port}/tcp is in use`)]);
  await clip.ok('run', '-d', '--name', own('holder'), '-p', `${port}:80`, image.reference);
  const held = await clip.run(['run', '--rm', '-p', `127.0.0.1:${port}:80`, image.reference]);
  expect([held.code, held.stderr]).toEqual([
    125,
    expect.stringContaining(`is published by the container ${own('holder')}`),
  ]);
  expect(containers()).toEqual([own('holder')]);
  await clip.ok('umount', '--cid', own('holder'), '--force');
});

describe('bad input', () => {
  const cases: readonly (readonly [args: readonly string[], why: string])[] = [
    [['-p', '80'], 'the port of this machine is missing'],
    [['-p', '0:80'], 'ports are from 1 to 65535'],
    [['-p', '80:70000'], 'ports are from 1 to 65535'],
    [['-p', 'http:80'], '"http" is no port'],
    [['-p', '80:80/sctp'], 'a protocol is tcp or udp'],
    [['-p', '[::1]:80:80'], 'an IPv6 address of this machine is not supported'],
    [['-p', 'localhost:80:80'], '"localhost" is no IPv4 address'],
    [['-p', '192.0.2.77:80:80'], 'this machine has no address 192.0.2.77'],
    [['-p', '90-80:90-80'], 'the range ends before it begins'],
    [['-p', '80-81:80'], 'the two ranges differ in length'],
    [['-p', '4081:80', '-p', '4081:81'], 'is published twice'],
    [['--net', 'host', '-p', '80:80'], '-p and --net host exclude each other'],
    [['--net', 'none', '-p', '80:80'], '-p and --net none exclude each other'],
    [['--net', 'nope'], 'Allowed choices are host, none, bridge, private'],
  ];
  test.each(cases)('%j: exit code 125, one line, the next step, and nothing left', async (args, why) => {
    const ran = await clip.run(['run', '--rm', ...args, image.reference, 'true']);
    expect([ran.code, ran.stdout, ran.stderr]).toEqual([125, '', expect.stringContaining(why)]);
    expect(ran.stderr.trimEnd().split('\n').length).toBeLessThanOrEqual(3);
  });

  test('a machine without plugins and without pasta', async () => {
    const hide = [
      ...['/usr/lib/cni', '/opt/cni/bin']
        .filter((path) => existsSync(path))
        .map((path) => `mount -t tmpfs none ${path}`),
      'mount --bind /dev/null /usr/bin/pasta',
    ];
    const without = (...flags: string[]): Promise<{ code: number | null; stderr: string }> => {
      const script = `${hide.join(' && ')} && exec "$@"`;
      const command = [process.execPath, PROGRAM, 'run', '--rm', ...flags, image.reference];
      return runProgram('unshare', ['--mount', 'sh', '-c', script, 'sh', ...command], { env: clip.env });
    };
    for (const [flags, why, next] of [
      [['-p', '4080:80'], 'neither CNI plugins nor pasta', 'containernetworking-plugins or passt'],
      [['--net', 'bridge'], 'this machine has no CNI plugins', 'containernetworking-plugins'],
      [['--net', 'private'], 'this machine has no pasta', 'passt'],
    ] as const) {
      const ran = await without(...flags);
      expect([ran.code, ran.stderr]).toEqual([125, expect.stringContaining(why)]);
      expect(ran.stderr).toContain(next);
    }
  });
});

test('without root: a private network by pasta, from the runtime’s hook', async (context) => {
  const bin = PROGRAM;
  for (let dir = dirname(bin); dir !== '/'; dir = dirname(dir)) {
    if ((statSync(dir).mode & 0o001) === 0) return context.skip(); // out of the user's reach
  }
  const home = clip.path('home');
  chmodSync(clip.directory, 0o755);
  chmodSync(image.layout.directory, 0o755);
  mkdirSync(home);
  await clip.ok('index', '--image', image.reference, '--out', clip.path('image.clip'));
  copyFileSync(clip.path('image.clip'), `${home}/image.clip`);
  chownSync(home, NOBODY, NOBODY);
  const fuseMode = statSync('/dev/fuse').mode & 0o777;
  for (const device of ['/dev/fuse', '/dev/net/tun']) chmodSync(device, 0o666); // as udev makes them
  const user = (...args: string[]): readonly [string, string[], object] => [
    'setpriv',
    [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', process.execPath, bin, ...args],
    { cwd: home, env: { PATH: process.env.PATH, HOME: home, XDG_RUNTIME_DIR: home, XDG_CACHE_HOME: `${home}/cache` } },
  ];
  try {
    const port = await freePort();
    const bridge = await runProgram(...user('run', '--rm', '--net', 'bridge', '--clip', 'image.clip'));
    expect([bridge.code, bridge.stderr]).toEqual([125, expect.stringContaining('a bridge needs root')]);
    let child: ChildProcess | undefined;
    const [program, args, options] = user('run', '--rm', '-p', `127.0.0.1:${port}:80`, '--clip', 'image.clip');
    const running = runProgram(program, args, { ...options, onStart: (started) => (child = started) });
    await eventually(async () => (await ask(port)) === 'from inside\n');
    child!.kill('SIGTERM');
    const ran = await running;
    expect([ran.code, ran.stderr, ran.stdout]).toEqual([7, '', expect.stringMatching(/^(\w+\n)?lo\n(\w+\n)?$/)]);
    expect(await ask(port)).toBeNull();
    const left = readdirSync(`${home}/clip`).filter((name) => !/^(clipd\..*|mounts\.json|reads)$/.test(name));
    expect(left).toEqual([]);
  } finally {
    await runProgram(...user('daemon', '--stop'));
    chmodSync('/dev/fuse', fuseMode);
    chmodSync('/dev/net/tun', tunMode);
  }
});
