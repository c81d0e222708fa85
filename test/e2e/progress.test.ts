import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { readArchiveImage } from '../../src/check/index.js';
import { ClipdClient } from '../../src/client/index.js';
import { Clipctl, PROGRAM } from '../support/clipctl.js';
import { Stage } from '../support/container-images.js';
import { S3_CREDENTIALS, type ServerProcess, startS3 } from '../support/content-servers.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { fixture, LEGACY } from '../support/legacy.js';
import { eventually } from '../support/mounted.js';
import { Pty } from '../support/pty.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { dir, file, tar } from '../support/tar.js';

// Every command that may take a second or more: a bar with rate and time left on a terminal, and none elsewhere.

let registry: TestRegistry;
let s3: ServerProcess;
let clip: Clipctl;
let pty: Pty;
let image: string;
let other: string;
let program: string;

/** As cli-progress draws it, with our words. */
const BAR = /\[[=-]{24}\] \d+% \| .* of .* \| .*\/s \| (done|ETA )/;

beforeAll(async () => {
  registry = await startRegistry();
  s3 = await startS3();
  const made = writeImage([tar(dir('data'), file('data/one', layerLike(4_000_000, 1)))]);
  await registry.push(made.reference, 'app:one');
  made.remove();
  const second = writeImage([tar(dir('data'), file('data/two', layerLike(4_000_000, 3)))]);
  await registry.push(second.reference, 'other:one');
  second.remove();
  const busybox = new Stage().base().image({ Env: ['PATH=/bin'], Cmd: ['true'] });
  await registry.push(busybox.reference, 'program:one');
  busybox.remove();
  image = `${registry.host}/app:one`;
  other = `${registry.host}/other:one`;
  program = `${registry.host}/program:one`;
  clip = await Clipctl.create({
    env: {
      CLIP_PROGRESS: 'auto',
      AWS_ACCESS_KEY_ID: S3_CREDENTIALS.accessKeyId,
      AWS_SECRET_ACCESS_KEY: S3_CREDENTIALS.secretAccessKey,
    },
  });
  await clip.ok('index', image, '-o', clip.path('app.clip'));
  await clip.ok('push', clip.path('app.clip'));
  const source = clip.path('source');
  await mkdir(source);
  await writeFile(join(source, 'file'), layerLike(4_000_000, 2));
  await clip.ok('create', source, clip.path('source.clip'));
}, 60_000);
beforeEach(() => {
  pty = new Pty();
  pty.resize(40, 140);
});
afterEach(() => pty.close());
afterAll(async () => {
  await clip?.close();
  await s3?.stop();
  await registry?.stop();
});

/** A command, and what it needs before each of its two runs. */
interface Case {
  readonly args: () => readonly string[];
  readonly before?: () => Promise<unknown>;
}

const out = (name: string): string => clip.path('out', name);
const mounted = async (): Promise<string> => {
  const place = await clip.place('mnt');
  for (const old of [place, clip.path('image')]) await clip.run(['umount', old]);
  await clip.ok('cache', 'prune');
  await clip.ok('mount', clip.path('app.clip'), place, '--no-prefetch');
  return place;
};
/** All of it in the cache, and no clipd, or one. */
const cached = async (running: boolean): Promise<void> => {
  await clip.ok('prefetch', await mounted(), '--wait');
  if (!running) await clip.stop();
};
const forget = (): Promise<void> => rm(clip.path('cache', 'archives'), { recursive: true, force: true });
const old = ['--storage-image', `oci:${LEGACY}/oci-image:1`];
const profile = (): string => {
  const { manifestDigest, layers } = readArchiveImage(clip.path('app.clip'));
  const path = clip.path('profile.json');
  const ranges = [{ layer: 0, start: 0, end: 4096 }];
  const recorded = { format: 'clip profile 1', manifestDigest, layers: layers.map(({ digest }) => digest), ranges };
  writeFileSync(path, JSON.stringify(recorded));
  return path;
};

const CASES: Readonly<Record<string, Case>> = {
  index: { args: () => ['index', image, '-o', out('index.clip'), '--fresh'] },
  'index --push': { args: () => ['index', other, '-o', out('other.clip'), '--push'] },
  'mount IMAGE': {
    before: async () => {
      await clip.run(['umount', await clip.place('image')]);
      await forget();
    },
    args: () => ['mount', image, clip.path('image')],
  },
  run: { before: forget, args: () => ['run', '--rm', program] },
  unpack: { args: () => ['unpack', clip.path('app.clip'), out('tree')] },
  'optimize FILE': { args: () => ['optimize', clip.path('app.clip'), '--profile', profile(), '-o', out('fast.clip')] },
  'optimize IMAGE': { args: () => ['optimize', program, '-o', out('run.clip'), '--', '/bin/true'] },
  push: {
    // One that no repository of the registry has, or it would take it over from there.
    before: () => clip.ok('index', image, '-o', out('new.clip'), '--fresh', '--checkpoint', '2'),
    args: () => ['push', out('new.clip')],
  },
  pull: { args: () => ['pull', image, '-o', out('pulled.clip')] },
  create: { args: () => ['create', clip.path('source'), out('created.clip')] },
  extract: { args: () => ['extract', clip.path('source.clip'), out('extracted')] },
  store: {
    args: () => [
      ...['store', clip.path('source.clip'), out('stored.rclip'), '--s3-bucket', 'clip', '--s3-key', 'source.clip'],
      ...['--s3-endpoint', `http://127.0.0.1:${s3.port}`, '--s3-region', 'us-east-1'],
    ],
  },
  'push to S3': {
    args: () => [
      ...['push', clip.path('app.clip'), `s3://clip/${randomUUID()}`, '--s3-region', 'us-east-1'],
      ...['--s3-endpoint', `http://127.0.0.1:${s3.port}`],
    ],
  },
  convert: { args: () => ['convert', fixture('oci-2025-11'), out('converted.clip'), ...old] },
  verify: { args: () => ['verify', clip.path('app.clip')] },
  'cache verify': { before: () => cached(false), args: () => ['cache', 'verify'] },
  'cache prune': { before: () => cached(false), args: () => ['cache', 'prune'] },
  'cache prune of a running clipd': { before: () => cached(true), args: () => ['cache', 'prune', '--mounted'] },
  'prefetch --wait': { before: mounted, args: () => ['prefetch', clip.path('mnt'), '--wait'] },
};

test.each(Object.keys(CASES))(
  '%s shows a bar on a terminal, and none elsewhere',
  async (name) => {
    const { before, args } = CASES[name]!;
    const prepare = async (): Promise<void> => {
      rmSync(clip.path('out'), { recursive: true, force: true });
      mkdirSync(clip.path('out'));
      await before?.();
    };
    await prepare();
    const env = { ...clip.env, TERM: 'xterm' };
    const code = await pty.run([process.execPath, PROGRAM, ...args()], env);
    await eventually(() => code !== 0 || BAR.test(pty.output)).catch(() => {}); // what the terminal holds back still
    expect([code, pty.output]).toEqual([0, expect.stringMatching(BAR)]);
    await prepare();
    const piped = await clip.run(args());
    expect(piped).toMatchObject({ code: 0 });
    expect(piped.stdout + piped.stderr).not.toContain('% |');
  },
  60_000,
);

test('cat into a file shows a bar on a terminal, and none among what it prints there', async () => {
  const cat = `'${process.execPath}' '${PROGRAM}' cat '${clip.path('app.clip')}' /data/one`;
  const env = { ...clip.env, TERM: 'xterm' };
  expect(await pty.run(['sh', '-c', `${cat} > '${clip.path('printed')}'`], env)).toBe(0);
  await eventually(() => BAR.test(pty.output)).catch(() => {}); // what the terminal holds back still
  expect(pty.output).toMatch(BAR);
  expect(readFileSync(clip.path('printed')).equals(layerLike(4_000_000, 1))).toBe(true);
  const quiet = await clip.run(['cat', clip.path('app.clip'), '/data/one']);
  expect([quiet.code, quiet.stderr]).toEqual([0, '']);
  const printing = new Pty();
  try {
    expect(await printing.run(['sh', '-c', cat], env)).toBe(0);
    expect(printing.output).not.toMatch(BAR);
  } finally {
    await printing.close();
  }
}, 60_000);

test('cache verify of a running clipd tells how far it is', async () => {
  await cached(true);
  const client = new ClipdClient(clip.path('root'));
  expect(await client.cache()).toMatchObject({ verifying: null });
  // It is asked again and again until one answer comes in the middle of a check.
  const seen: { done: number; total: number }[] = [];
  await eventually(async () => {
    const checked = client.verifyCache();
    const { verifying } = await client.cache();
    await checked;
    if (verifying !== null) seen.push(verifying);
    return seen.length > 0;
  });
  expect(seen[0]!.total).toBeGreaterThanOrEqual(4_000_000);
  expect(seen[0]!.done).toBeLessThanOrEqual(seen[0]!.total);
  expect(await client.cache()).toMatchObject({ verifying: null });
});
