import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Finding } from '../../src/doctor/index.js';
import { Clipctl, PROGRAM, runProgram } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { LOGIN, startRegistry, type TestRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

// `clipctl doctor` on this machine, on machines that lack something, and against registries. Needs root and /dev/fuse.

interface Report {
  readonly works: boolean;
  readonly machine: readonly Finding[];
  readonly reference?: string;
  readonly registry?: readonly Finding[];
}

let clip: Clipctl;
let open: TestRegistry;
let closed: TestRegistry;

beforeAll(async () => {
  clip = await Clipctl.create();
  [open, closed] = await Promise.all([startRegistry(), startRegistry({ tls: true, auth: 'basic' })]);
  const image = writeImage([tar(file('a', layerLike(300_000, 1)))]);
  await open.push(image.reference, 'app:one');
  image.remove();
}, 60_000);
afterAll(async () => {
  await clip?.close();
  await open?.stop();
  await closed?.stop();
});

/** With the exit code, under a program that takes something from it. */
async function doctor(args: readonly string[] = [], under: readonly string[] = [], env: NodeJS.ProcessEnv = {}) {
  const [command = '', ...rest] = [...under, process.execPath, PROGRAM, 'doctor', '--json', ...args];
  const ran = await runProgram(command, rest, { env: { ...clip.env, ...env } });
  if (ran.stdout === '') throw new Error(ran.stderr);
  return { code: ran.code, report: JSON.parse(ran.stdout) as Report };
}

const finding = (findings: readonly Finding[] | undefined, name: string): Finding =>
  findings?.find((one) => one.name === name) ?? { name, status: 'ok', found: 'no such finding' };

test('a machine that can mount is found to work, with a finding for all that matters, and nothing stays behind', async () => {
  const before = readdirSync(tmpdir()).filter((name) => name.startsWith('clip-doctor-'));
  const { code, report } = await doctor();
  expect(report.machine.filter(({ status }) => status === 'failed')).toEqual([]);
  expect(report.works).toBe(true);
  expect(code).toBe(0);
  expect(report.machine.map(({ name }) => name)).toEqual([
    'node',
    'kernel',
    'fuse-resend',
    'fuse-passthrough',
    'kernel-erofs',
    'fuse-device',
    'fusermount3',
    'mounting',
    'fuse-limits',
    'overlay',
    'user-namespaces',
    'runtime',
    'cgroup',
    'open-files',
    'root',
    'cache',
    'disk-room',
    'cache-holes',
    'plane',
    'clipd',
  ]);
  expect(readdirSync(tmpdir()).filter((name) => name.startsWith('clip-doctor-'))).toEqual(before);
  // Looking makes no directories.
  expect(existsSync(clip.path('cache'))).toBe(false);
});

test('without CAP_SYS_ADMIN a mount on trial fails, and so does doctor', async () => {
  const { code, report } = await doctor([], ['setpriv', '--bounding-set', '-sys_admin', '--inh-caps', '-sys_admin']);
  expect(finding(report.machine, 'mounting')).toMatchObject({ status: 'failed', found: 'mounting FUSE: EPERM' });
  expect(finding(report.machine, 'mounting').hint).toContain('CAP_SYS_ADMIN');
  expect(report.works).toBe(false);
  expect(code).toBe(1);
});

test('a /dev/fuse that cannot be opened is a failure with the way to mend it', async () => {
  const socket = createServer();
  await new Promise<void>((resolve) => socket.listen(clip.path('no-fuse'), resolve));
  const hide = `mount --bind ${clip.path('no-fuse')} /dev/fuse && exec "$@"`;
  const { code, report } = await doctor([], ['unshare', '--mount', 'sh', '-c', hide, 'sh']);
  socket.close();
  expect(finding(report.machine, 'fuse-device')).toMatchObject({
    status: 'failed',
    found: '/dev/fuse cannot be opened: ENXIO',
  });
  expect(finding(report.machine, 'fuse-device').hint).toContain('modprobe fuse');
  expect(code).toBe(1);
});

test('a cache in memory and few open files are said to be limits, and not failures', async () => {
  mkdirSync(clip.path('memory'));
  const mount = `mount -t tmpfs tmpfs ${clip.path('memory')} && ulimit -n 512 && exec "$@"`;
  const under = ['unshare', '--mount', 'sh', '-c', mount, 'sh'];
  const { code, report } = await doctor(['--cache-dir', clip.path('memory')], under);
  expect(finding(report.machine, 'cache')).toMatchObject({
    status: 'limited',
    found: expect.stringContaining('tmpfs'),
  });
  expect(finding(report.machine, 'open-files').status).toBe('limited');
  expect(code).toBe(0);
});

test('a root or cache directory that cannot be used is a failure', async () => {
  const { code, report } = await doctor(['--root', '/proc/version', '--cache-dir', '/proc/version']);
  expect(finding(report.machine, 'root').status).toBe('failed');
  expect(finding(report.machine, 'cache').status).toBe('failed');
  expect(code).toBe(1);
});

test('with an image each step on the way to it is a finding', async () => {
  const { code, report } = await doctor([`${open.host}/app:one`]);
  expect(code).toBe(0);
  expect(report.registry?.filter(({ status }) => status === 'failed')).toEqual([]);
  expect(report.registry?.map(({ name }) => name)).toEqual([
    'hosts',
    'name-resolution',
    'connection',
    'tls',
    'login',
    'manifest',
    'ranges',
    'redirects',
    'round-trip',
    'bandwidth',
    'referrers',
  ]);
  expect(finding(report.registry, 'tls').found).toBe('none: plain HTTP');
  expect(finding(report.registry, 'ranges').found).toBe('4096 bytes asked for, 4096 came');
  expect(finding(report.registry, 'bandwidth').found).toMatch(/MB\/s over one connection/);
  // Debian's registry is older than the referrers API.
  expect(finding(report.registry, 'referrers').status).toBe('limited');
});

test('a missing image, an unknown CA, a refused login and a dead port are failures, each at its step', async () => {
  const missing = await doctor([`${open.host}/app:nine`]);
  expect(missing.code).toBe(1);
  expect(finding(missing.report.registry, 'manifest')).toMatchObject({ status: 'failed' });
  expect(finding(missing.report.registry, 'manifest').hint).toContain('one');

  const untrusted = await doctor([`${closed.host}/app:one`]);
  expect(untrusted.report.registry?.at(-1)).toMatchObject({ name: 'tls', status: 'failed' });
  expect(untrusted.code).toBe(1);

  const trust = { SSL_CERT_FILE: closed.certificates!.caCert };
  const refused = await doctor([`${closed.host}/app:one`, '--creds', 'clip:wrong'], [], trust);
  expect(finding(refused.report.registry, 'tls')).toMatchObject({
    status: 'limited', // its certificate is good for two days
    found: expect.stringMatching(/^TLSv1/),
  });
  expect(refused.report.registry?.at(-1)).toMatchObject({ name: 'manifest', status: 'failed' });
  expect(JSON.stringify(refused.report)).not.toContain('wrong');
  const admitted = await doctor(
    [`${closed.host}/app:one`, '--creds', `${LOGIN.username}:${LOGIN.password}`],
    [],
    trust,
  );
  expect(finding(admitted.report.registry, 'manifest').found).toContain('app');
  expect(JSON.stringify(admitted.report)).not.toContain(LOGIN.password);

  const dead = await doctor(['127.0.0.1:1/app:one']);
  expect(dead.report.registry?.at(-1)).toMatchObject({ name: 'connection', status: 'failed' });
  expect(dead.report.registry?.at(-1)?.found).toContain('ECONNREFUSED');
  expect(dead.code).toBe(1);
});

test('the text has a line for each finding and a last line that says whether clip works', async () => {
  const { stdout, code } = await clip.run(['doctor']);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^ok {2}fuse-device +\/dev\/fuse$/m);
  expect(stdout.trimEnd().split('\n').at(-1)).toBe('clip works here.');
});
