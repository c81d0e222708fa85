import { execFileSync, spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { KEEPER_FLAGS, KEEPER_MAIN } from '../../src/wire/index.js';
import { Clipctl, PROGRAM } from '../support/clipctl.js';
import { eventually, health, indexedImage } from '../support/mounted.js';

let directory: string;
let bundle: string;
let clipctl: string;

beforeAll(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'clip-launch-'));
  bundle = path.join(directory, 'ca.pem');
  writeFileSync(bundle, '');
  clipctl = path.join(directory, 'clipctl'); // as npm links it
  symlinkSync(PROGRAM, clipctl);
});
afterAll(() => rmSync(directory, { recursive: true }));

/** The two variables, and the arguments of Node, as the shell in bin/clipctl.js starts it. */
function nodeOf(...args: string[]): string[] {
  const bin = path.join(directory, 'bin');
  mkdirSync(bin, { recursive: true });
  writeFileSync(
    path.join(bin, 'node'),
    '#!/bin/sh\nprintenv NODE_EXTRA_CA_CERTS || echo none\nprintenv CLIP_NODE_EXTRA_CA_CERTS || echo none\nprintf "%s\\n" "$@"\n',
  );
  chmodSync(path.join(bin, 'node'), 0o755);
  const env = { ...process.env, PATH: `${bin}:${process.env.PATH}`, NODE_EXTRA_CA_CERTS: bundle };
  return execFileSync(clipctl, args, { env, encoding: 'utf8' }).trimEnd().split('\n');
}

test('Node starts without certificates that the command does not need, and gets all arguments', () => {
  expect(nodeOf('mount', 'a b', '', '*')).toEqual(['none', bundle, '--', clipctl, 'mount', 'a b', '', '*']);
  expect(nodeOf('--version')).toEqual(['none', bundle, '--', clipctl, '--version']);
  // These may connect to S3, by Node's own settings.
  expect(nodeOf('push', 's3://bucket/key').slice(0, 2)).toEqual([bundle, 'none']);
  expect(nodeOf('mount', '--s3-bucket', 'b').slice(0, 2)).toEqual([bundle, 'none']);
  expect(nodeOf('mount', 's3://bucket/key').slice(0, 2)).toEqual([bundle, 'none']);
  expect(nodeOf('run', 's3://bucket/key').slice(0, 2)).toEqual([bundle, 'none']);
  expect(nodeOf('run', 'image').slice(0, 2)).toEqual(['none', bundle]);
  expect(nodeOf('index', 'image').slice(0, 2)).toEqual(['none', bundle]);
  expect(nodeOf('doctor').slice(0, 2)).toEqual([bundle, 'none']);
  expect(nodeOf().slice(0, 2)).toEqual([bundle, 'none']);
});

test('a collector of traces behind TLS is reached with the certificates that Node is told to trust', () => {
  process.env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT = 'https://127.0.0.1:4318/v1/traces';
  try {
    expect(nodeOf('index', 'image').slice(0, 2)).toEqual([bundle, 'none']);
  } finally {
    delete process.env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT;
  }
});

test('the program finds the variable where it was', () => {
  const hook = path.join(directory, 'hook.cjs');
  writeFileSync(
    hook,
    `process.on('exit', () => require('node:fs').writeFileSync(process.env.SEEN,
      JSON.stringify([process.env.NODE_EXTRA_CA_CERTS, process.env.CLIP_NODE_EXTRA_CA_CERTS ?? null])));`,
  );
  const seen = path.join(directory, 'seen');
  const env = { ...process.env, NODE_EXTRA_CA_CERTS: bundle, NODE_OPTIONS: `--require ${hook}`, SEEN: seen };
  for (const [command, ...args] of [[clipctl], [process.execPath, PROGRAM]] as const) {
    expect(execFileSync(command, [...args, '--version'], { env, encoding: 'utf8' })).toMatch(/^\d+\.\d+\.\d+\n$/);
    expect(JSON.parse(readFileSync(seen, 'utf8'))).toEqual([bundle, null]);
  }
});

test('a keeper that is told nothing ends', async () => {
  const child = spawn(process.execPath, [...KEEPER_FLAGS, KEEPER_MAIN], { stdio: ['pipe', 'pipe', 'inherit'] });
  child.stdin!.write('{"settings":{"root":"');
  child.stdin!.end();
  expect(await new Promise((resolve) => child.once('exit', (...how) => resolve(how)))).toEqual([0, null]);
});

test('a command that fails before it needs a clipd leaves no keeper', async () => {
  const root = path.join(directory, 'root');
  const env = { ...process.env, CLIP_ROOT: root, CLIP_LAUNCH_TEST: directory };
  const child = spawn(clipctl, ['mount', '--clip', path.join(directory, 'none.clip'), '--at', directory], {
    env,
    stdio: 'ignore',
  });
  expect(await new Promise((resolve) => child.once('exit', resolve))).toBe(3);
  await eventually(() => keepersOf(directory).length === 0, 10_000);
});

/** Processes that have this directory in CLIP_LAUNCH_TEST. */
function keepersOf(value: string): string[] {
  return execFileSync(
    'sh',
    ['-c', 'grep -l -a "CLIP_LAUNCH_TEST=$0" /proc/[0-9]*/environ 2>/dev/null || true', value],
    { encoding: 'utf8' },
  )
    .split('\n')
    .filter((line) => line !== '');
}

test('every process and thread of clipd takes the compiled code that comes with Node', async () => {
  // V8 takes no code that was made under other flags. This tag is of the version, the flags and the processor.
  const hook = path.join(directory, 'tags.cjs');
  const tags = path.join(directory, 'tags');
  writeFileSync(
    hook,
    `const { isMainThread } = require('node:worker_threads');
     const program = isMainThread ? require('node:path').basename(process.argv[1] ?? '') : 'thread';
     require('node:fs').appendFileSync(${JSON.stringify(tags)}, program + ' ' + require('node:v8').cachedDataVersionTag() + '\\n');`,
  );
  const clip = await Clipctl.create({ env: { NODE_OPTIONS: `--require ${hook}` } });
  const { archive, remove } = await indexedImage(clip, 'tags');
  try {
    writeFileSync(tags, '');
    await clip.ok('mount', archive, await clip.place('tags'));
    const seen = (): string[][] =>
      readFileSync(tags, 'utf8')
        .trimEnd()
        .split('\n')
        .map((line) => line.split(' '));
    await eventually(() => seen().some(([program]) => program === 'thread'));
    const plain = execFileSync(process.execPath, ['-p', 'require("node:v8").cachedDataVersionTag()'], {
      encoding: 'utf8',
    }).trim();
    const programs = new Set(seen().map(([program]) => program));
    expect([...programs].sort()).toEqual(['clipctl.js', 'keeper-main.js', 'server-main.js', 'thread']);
    expect(new Set(seen().map(([, tag]) => tag))).toEqual(new Set([plain]));
  } finally {
    await clip.close();
    remove();
  }
});

test('a server that was started beside its keeper is its child: its end is seen, and nothing is left of it', async () => {
  const clip = await Clipctl.create();
  const { archive, remove } = await indexedImage(clip, 'child');
  try {
    const place = await clip.place('child');
    await clip.ok('mount', archive, place);
    const { serverPid, keeperPid } = await health(clip);
    expect(readFileSync(`/proc/${serverPid}/stat`, 'latin1').split(') ')[1]!.split(' ')[1]).toBe(String(keeperPid));
    // No Node process has started it, so it was told of its channel by the shell.
    expect(readFileSync(`/proc/${serverPid}/environ`, 'latin1')).toContain('NODE_CHANNEL_FD=3\0');
    process.kill(serverPid, 'SIGKILL');
    expect(readFileSync(path.join(place, 'etc/name'), 'utf8')).toBe('image 1\n');
    await eventually(async () => (await health(clip)).restarts === 1);
    expect(existsSync(`/proc/${serverPid}`)).toBe(false);
    const ended = readFileSync(clip.path('root/clipd.log'), 'utf8')
      .split('\n')
      .filter((line) => line.includes('has ended, starting another'))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(ended).toMatchObject([{ pid: serverPid, exitCode: null, signalCode: 'SIGKILL' }]);
  } finally {
    await clip.close();
    remove();
  }
});

/** Those of a process that lives; none of one that does not. */
function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').split(' ').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

const isAlive = (pid: number): boolean => existsSync(`/proc/${pid}`);

test('a server that is killed while it boots is replaced; both end when there is nothing to mount', async () => {
  const clip = await Clipctl.create();
  const { archive, remove } = await indexedImage(clip, 'booting');
  /** Runs clipctl until its keeper has a server, which boots at that time, if it is not quicker than this test. */
  const launched = async (file: string) => {
    const child = spawn(PROGRAM, ['mount', file, await clip.place('booting')], { env: clip.env, stdio: 'ignore' });
    const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
    let server: number | undefined;
    let keeper: number | undefined;
    while (server === undefined && child.exitCode === null) {
      [keeper] = childrenOf(child.pid!);
      [server] = keeper === undefined ? [] : childrenOf(keeper);
      await new Promise((resolve) => setImmediate(resolve));
    }
    return { ended, keeper, server };
  };
  try {
    const unused = await launched(clip.path('missing.clip'));
    expect(await unused.ended).not.toBe(0);
    await eventually(async () => ![unused.keeper, unused.server].some((pid) => pid !== undefined && isAlive(pid)));
    const killed = await launched(archive);
    const server = killed.server ?? (await health(clip)).serverPid;
    process.kill(server, 'SIGKILL');
    expect(await killed.ended).toBe(0);
    expect((await health(clip)).serverPid).not.toBe(server);
    expect(readFileSync(path.join(await clip.place('booting'), 'etc/name'), 'utf8')).toBe('image 1\n');
  } finally {
    await clip.close();
    remove();
  }
});
