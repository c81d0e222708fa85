import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClipdClient } from '../../src/client/index.js';
import { Clipctl, type Ran, runProgram } from '../support/clipctl.js';
import { S3_CREDENTIALS, startS3 } from '../support/content-servers.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually, type IndexedImage, indexedImage, readDirect, sha256Of } from '../support/mounted.js';
import { file, tar } from '../support/tar.js';

// `npm install -g` of another version takes the files of a running clipd away and puts others in their place.

const top = fileURLToPath(new URL('../../..', import.meta.url));

let clip: Clipctl;
let image: IndexedImage;
let install: string;

beforeAll(async () => {
  clip = await Clipctl.create();
  image = await indexedImage(clip, 'image', 1, 1e6);
  install = clip.path('install');
  mkdirSync(install);
  for (const name of ['bin', 'package.json', 'dist/lib'])
    cpSync(`${top}/${name}`, `${install}/${name}`, { recursive: true });
  symlinkSync(`${top}/node_modules`, `${install}/node_modules`);
});
afterAll(async () => {
  image.remove();
  await clip.close();
});

const installed = (...args: string[]): Promise<Ran> =>
  runProgram(process.execPath, [`${install}/bin/clipctl.js`, ...args], { env: clip.env });

const log = (): string => readFileSync(clip.path('root/clipd.log'), 'utf8');

/** Takes the files away for as long as `work` takes. */
async function without(names: readonly string[], work: () => Promise<void>): Promise<void> {
  for (const name of names) renameSync(`${install}/${name}`, `${install}/${name}.away`);
  try {
    await work();
  } finally {
    for (const name of names) renameSync(`${install}/${name}.away`, `${install}/${name}`);
  }
}

test('a server whose files are gone ends, and the mount works again when files are there', async () => {
  const place = await clip.place('place');
  const mounted = await installed('mount', '--clip', image.archive, '--at', place, '--no-readahead');
  expect([mounted.code, mounted.stderr]).toEqual([0, '']);
  await without(['node_modules', 'dist'], async () => {
    // What it would load later is missing: it says so and ends, although the modules that log and exit would need are gone, too.
    await eventually(() => log().includes('this server process ends'), 20_000);
    await eventually(() => log().includes('the server process has ended'), 20_000);
  });
  expect(sha256Of(await readDirect(`${place}/large`))).toBe(image.hashes.get('large'));
  const health = await installed('health');
  expect([health.code, health.stderr]).toEqual([0, '']);
  expect((await installed('umount', place)).code).toBe(0);
  await clip.stop();
});

test('a server that is killed while its files are gone is followed by one that waits in reserve', async () => {
  const place = await clip.place('place');
  expect((await installed('mount', '--clip', image.archive, '--at', place, '--no-readahead')).code).toBe(0);
  const client = new ClipdClient(clip.path('root'));
  await eventually(async () => (await client.stats()).memory.standbyRss > 0, 20_000); // it has loaded everything
  const before = await client.health();
  await without(['node_modules', 'dist'], async () => {
    process.kill(before.serverPid, 'SIGKILL');
    expect((await client.health()).serverPid).not.toBe(before.serverPid);
    expect(readdirSync(`${place}/data`)).toHaveLength(20);
  });
  expect(sha256Of(await readDirect(`${place}/data/file-7`))).toBe(image.hashes.get('data/file-7'));
  expect((await installed('umount', place)).code).toBe(0);
  await clip.stop();
});

test('a server that falls silent is killed by its keeper, and reads and requests go on', async () => {
  const place = await clip.place('place');
  expect((await installed('mount', '--clip', image.archive, '--at', place, '--no-readahead')).code).toBe(0);
  const client = new ClipdClient(clip.path('root'));
  const before = await client.health();
  process.kill(before.serverPid, 'SIGSTOP'); // as good as a thread that waits for ever
  const [bytes, health] = await Promise.all([readDirect(`${place}/data/file-9`), client.health()]);
  expect(sha256Of(bytes)).toBe(image.hashes.get('data/file-9'));
  expect(health.serverPid).not.toBe(before.serverPid);
  expect(log()).toContain('the server process has fallen silent and is killed');
  expect((await installed('umount', place)).code).toBe(0);
  expect(existsSync(clip.path('root/clipd.sock'))).toBe(true);
  await clip.stop();
});

// Modules that only some images need are loaded before the files can be gone, or with the mount that needs them.
test('a server whose files are gone reads its first zstd layer, and its first archive in S3', async () => {
  const zstd = writeImage([tar(file('z', layerLike(3e6)))], { compression: 'zstd' });
  const s3 = await startS3();
  try {
    await clip.ok('index', '--image', zstd.reference, '--out', clip.path('zstd.clip'));
    const content = layerLike(1e5, 3);
    mkdirSync(clip.path('packed'));
    writeFileSync(clip.path('packed/f'), content);
    await clip.ok('create', clip.path('packed'), '--out', clip.path('local.clip'));
    const location = ['--s3-bucket', 'clip', '--s3-endpoint', `http://127.0.0.1:${s3.port}`];
    const creds = ['--creds', `${S3_CREDENTIALS.accessKeyId}:${S3_CREDENTIALS.secretAccessKey}`];
    await clip.ok('store', '--clip', clip.path('local.clip'), '--out', clip.path('s3.rclip'), ...location, ...creds);
    const [one, two] = [await clip.place('one'), await clip.place('two')];
    const quiet = ['--no-readahead', '--no-prefetch'];
    const mounts = [
      ['--clip', clip.path('zstd.clip'), '--at', one, '--verbose', ...quiet],
      ['--clip', clip.path('s3.rclip'), '--at', two, ...creds, ...quiet],
    ];
    for (const flags of mounts) expect((await installed('mount', ...flags)).code).toBe(0);
    const client = new ClipdClient(clip.path('root'));
    await eventually(() => log().includes('all threads are there'), 20_000);
    await eventually(() => log().includes('the S3 client is loaded'), 20_000);
    const { serverPid } = await client.health();
    await without(['node_modules', 'dist'], async () => {
      expect(sha256Of(await readFile(`${one}/z`))).toBe(sha256Of(layerLike(3e6)));
      expect(sha256Of(await readFile(`${two}/f`))).toBe(sha256Of(content));
      expect((await client.health()).serverPid).toBe(serverPid);
    });
    for (const place of [one, two]) expect((await installed('umount', place)).code).toBe(0);
  } finally {
    zstd.remove();
    await s3.stop();
    await clip.stop();
  }
});
