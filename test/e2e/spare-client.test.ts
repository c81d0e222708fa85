import type { ChildProcess } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { Clipctl, PROGRAM, type Ran, runProgram } from '../support/clipctl.js';
import {
  alive,
  eventually,
  health,
  type IndexedImage,
  indexedImage,
  listed,
  mountedAs,
  verify,
} from '../support/mounted.js';

let clip: Clipctl;
let image: IndexedImage;
/** A `node` that only notes that it was asked for, in front of the real one. */
let withoutNode: NodeJS.ProcessEnv;

beforeAll(async () => {
  clip = await Clipctl.create();
  image = await indexedImage(clip, 'image');
  const bin = clip.path('bin');
  mkdirSync(bin);
  writeFileSync(path.join(bin, 'node'), '#!/bin/sh\necho "a Node of its own"\n');
  chmodSync(path.join(bin, 'node'), 0o755);
  withoutNode = { PATH: `${bin}:${process.env.PATH}` };
  await clip.ok('mount', '--clip', image.archive, '--at', await clip.place('first'));
});
afterAll(() => clip.close());

const id = (): string => clip.path('root/clipd.spare/id');
const sparePid = (): number => Number(readFileSync(id(), 'latin1').split(' ')[0]);

const isReady = (): boolean => existsSync(id()) && alive(sparePid());

/** A client in reserve is made 2 s after there is work for clients. */
async function ready(): Promise<number> {
  await eventually(isReady, 30_000);
  return sparePid();
}

let count = 0;
let place: string;
beforeEach(async () => {
  place = await clip.place(`place ${count++}`);
  // The last one may have ended without a call.
  if (!isReady()) await clip.ok('mount', '--clip', image.archive, '--at', await clip.place(`work ${count}`));
  await ready();
});

const without = (args: readonly string[], options: { cwd?: string; env?: NodeJS.ProcessEnv } = {}): Promise<Ran> =>
  clip.run(args, { ...options, env: { ...withoutNode, ...options.env } });

test('it mounts and unmounts, with the output of a clipctl that starts', async () => {
  const mounted = await without(['mount', '--clip', image.archive, '--at', place]);
  expect([mounted.code, mounted.stdout, mounted.stderr]).toEqual([0, `${place}\n`, '']);
  verify(place, image);
  await ready();
  const unmounted = await without(['umount', place, '--json']);
  expect([unmounted.code, JSON.parse(unmounted.stdout), unmounted.stderr]).toEqual([0, { mountPoint: place }, '']);
  expect(mountedAs(place)).toBeNull();
});

test('errors and exit codes are those of a clipctl that starts', async () => {
  for (const args of [
    ['mount', '--clip', image.archive, '--at', '/nowhere at all'],
    ['mount', '--clip', image.archive, '--att', place],
    ['umount', place, '--json'],
  ]) {
    await ready();
    const [spare, started] = [await without(args), await clip.run(args)];
    expect([spare.code, spare.stdout, spare.stderr]).toEqual([started.code, started.stdout, started.stderr]);
    expect(spare.code).toBeGreaterThan(1);
  }
});

test("the caller's directory, variables and mask are its own", async () => {
  const file = path.join(clip.directory, 'mine.clip');
  copyFileSync(image.archive, file);
  const mounted = await without(['mount', 'mine.clip', path.basename(place)], { cwd: clip.directory });
  expect([mounted.code, mounted.stdout]).toEqual([0, `${path.basename(place)}\n`.replace(/^/, `${clip.directory}/`)]);
  await ready();
  const refused = await without(['umount', place], { env: { CLIP_LAZY: 'perhaps' } });
  expect(refused.stderr).toMatch(/CLIP_LAZY: 1 or 0 expected/);
  // Nothing of the clipd's environment is left: its clients' caches would be elsewhere.
  await ready();
  const { CLIP_ROOT } = clip.env;
  const bare = { PATH: withoutNode.PATH, CLIP_ROOT };
  const unset = await runProgram(PROGRAM, ['umount', place], { env: bare });
  expect([unset.code, unset.stderr]).toEqual([0, '']);
});

test('of two at a time each gets its own answer', async () => {
  const others = await Promise.all(Array.from({ length: 5 }, (_, i) => clip.place(`at once ${i}`)));
  const all = await Promise.all(others.map((each) => clip.run(['mount', '--clip', image.archive, '--at', each])));
  expect(all.map(({ code, stdout, stderr }) => [code, stdout, stderr])).toEqual(
    others.map((each) => [0, `${each}\n`, '']),
  );
  expect((await listed(clip)).map(({ mountPoint }) => mountPoint)).toEqual(expect.arrayContaining(others));
});

test('what takes long, stays or starts processes gets a Node of its own', async () => {
  const declined = async (...args: string[]): Promise<void> => {
    await ready();
    expect(await without(args)).toMatchObject({ code: 0, stdout: 'a Node of its own\n', stderr: '' });
  };
  await declined('mount', '--clip', image.archive, '--cid', 'one');
  await declined('mount', '--clip', image.archive, '--at', place, '--foreground');
  await declined('mount', 'no.such.registry/image:1', place); // found out by the client in reserve
  await declined('mount', 's3://bucket/key', place);
  await declined('ps');
  await ready();
  expect(await without(['mount', image.archive, place], { env: { NODE_OPTIONS: '--no-deprecation' } })).toMatchObject({
    stdout: 'a Node of its own\n',
  });
  await ready();
  const other = { env: { CLIP_ROOT: clip.path('other root') } };
  expect(await without(['mount', image.archive, place], other)).toMatchObject({ stdout: 'a Node of its own\n' });
  // On a terminal it shows progress.
  await ready();
  const command = `'${PROGRAM}' umount '${place}'`;
  const terminal = await runProgram('script', ['-qec', command, '/dev/null'], { env: { ...clip.env, ...withoutNode } });
  expect(terminal.stdout.trim()).toBe('a Node of its own');
});

test('a caller that sees other files, or has fewer rights, gets a Node of its own', async () => {
  const env = { ...clip.env, ...withoutNode };
  const args = [PROGRAM, 'mount', '--clip', image.archive, '--at', place];
  for (const program of [
    ['unshare', '--mount'],
    ['unshare', '--net'],
    ['setpriv', '--bounding-set=-sys_admin', '--inh-caps=-all'],
  ]) {
    await ready();
    const ran = await runProgram(program[0]!, [...program.slice(1), ...args], { env });
    expect([ran.code, ran.stdout]).toEqual([0, 'a Node of its own\n']);
  }
});

test('another clipctl than its own is not answered', async () => {
  const other = clip.path('bin/clipctl.js');
  copyFileSync(PROGRAM, other);
  const ran = await runProgram(other, ['umount', place], { env: { ...clip.env, ...withoutNode } });
  expect(ran.stdout).toBe('a Node of its own\n');
  expect(existsSync(id())).toBe(true); // it was not even asked
});

test('one that was killed is not waited for, and replaced when there is work', async () => {
  const pid = sparePid();
  process.kill(pid, 'SIGKILL');
  await eventually(() => !alive(pid));
  expect(existsSync(id())).toBe(true);
  await clip.ok('mount', '--clip', image.archive, '--at', place);
  await eventually(() => existsSync(id()) && sparePid() !== pid, 30_000);
  expect(readdirSync(clip.path('root/clipd.spare')).filter((name) => name.startsWith(`${pid}.`))).toEqual([]);
  expect((await without(['umount', place])).code).toBe(0);
});

test('files in its place that are not of a client in reserve are harmless', async () => {
  const pid = sparePid();
  // Of a live process, whose descriptor is another file.
  writeFileSync(id(), `${process.pid} 0 ${PROGRAM}\n`);
  expect((await without(['umount', place])).stdout).toBe('a Node of its own\n');
  writeFileSync(id(), `${pid} 0 ${PROGRAM}\n`);
  expect((await without(['umount', place])).stdout).toBe('a Node of its own\n');
  for (const text of ['', '\n', '; touch /tmp/x', '$(touch x) ../../x /', `${pid}`]) {
    writeFileSync(id(), text);
    expect((await without(['umount', place])).stdout).toBe('a Node of its own\n');
  }
  process.kill(pid, 'SIGKILL');
  await eventually(() => !alive(pid));
});

/** Starts a mount that waits, because the server is stopped; once `act` has run the server goes on. */
async function whileWaiting(act: (shell: ChildProcess, spare: number) => void | Promise<void>): Promise<Ran> {
  const spare = await ready();
  const { serverPid: pid } = await health(clip);
  process.kill(pid, 'SIGSTOP');
  try {
    const shells: ChildProcess[] = [];
    const ran = clip.run(['mount', '--clip', image.archive, '--at', place], {
      onStart: (child) => void shells.push(child),
    });
    await eventually(() => !existsSync(id()));
    await new Promise((resolve) => setTimeout(resolve, 100)); // most likely it has asked by then
    await act(shells[0]!, spare);
    process.kill(pid, 'SIGCONT');
    return await ran;
  } finally {
    process.kill(pid, 'SIGCONT');
  }
}

test.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const)('%s leaves nothing behind', async (signal, code) => {
  const ran = await whileWaiting(async (shell) => {
    shell.kill(signal);
    await new Promise((resolve) => setTimeout(resolve, 1000)); // until the shell has passed it on, which nothing shows
  });
  expect([ran.code, ran.stdout, ran.stderr]).toEqual([code, '', '']);
  expect(mountedAs(place)).toBeNull();
});

test('a shell that was killed leaves nothing behind', async () => {
  const ran = await whileWaiting(async (shell) => {
    shell.kill('SIGKILL');
    await new Promise((resolve) => setTimeout(resolve, 200));
  });
  expect(ran.signal).toBe('SIGKILL');
  await eventually(async () => (await listed(clip)).every(({ mountPoint }) => mountPoint !== place));
});

test('when it is killed with a call, another client does the work', async () => {
  const ran = await whileWaiting((_, spare) => void process.kill(spare, 'SIGKILL'));
  // The first request may have been carried out as well.
  expect([0, 13]).toContain(ran.code);
  verify(place, image);
});

test('it ends with clipd, however that ends', async () => {
  const spare = await ready();
  await clip.stop();
  expect(alive(spare)).toBe(false);
  expect(existsSync(clip.path('root/clipd.spare'))).toBe(false);

  await clip.ok('mount', '--clip', image.archive, '--at', place);
  const next = await ready();
  const { keeperPid } = await health(clip);
  process.kill(keeperPid, 'SIGKILL');
  await eventually(() => !alive(next));
  await runProgram('umount', ['-l', place]);
});

test("its memory is a part of clipd's", async () => {
  await clip.ok('mount', '--clip', image.archive, '--at', place);
  const pid = await ready();
  const { memory } = await clip.json<{ memory: { clientRss: number; clientPss: number } }>('stats');
  expect(memory.clientPss).toBeGreaterThan(1e6);
  expect(memory.clientRss).toBeGreaterThan(memory.clientPss);
  expect(readFileSync(`/proc/${pid}/cmdline`, 'latin1')).toMatch(/^clipctl in reserve/);
});
