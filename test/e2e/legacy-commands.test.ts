import { readFileSync, rmSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Clipctl } from '../support/clipctl.js';
import { own, Stage } from '../support/container-images.js';
import { S3_CREDENTIALS, type ServerProcess, startS3 } from '../support/content-servers.js';
import { fixture, LEGACY } from '../support/legacy.js';

// Commands that take any archive, on those of version 1 whose data is elsewhere than they say.

let s3: ServerProcess;
let clip: Clipctl;
const CREDS = `${S3_CREDENTIALS.accessKeyId}:${S3_CREDENTIALS.secretAccessKey}`;
const image = `oci:${LEGACY}/oci-image:1`;
const expected = 'a tree of its own\n';
/** Options of commands that read its data. */
let place: string[];

beforeAll(async () => {
  [s3, clip] = await Promise.all([startS3(), Clipctl.create()]);
  const stage = new Stage().base().file('etc/own', expected);
  await clip.ok('create', stage.directory, clip.path('tree.clip'));
  rmSync(stage.directory, { recursive: true, force: true });
  const endpoint = `http://127.0.0.1:${s3.port}`;
  const at = ['--s3-bucket', 'clip', '--s3-region', 'us-east-1', '--s3-endpoint', endpoint, '--creds', CREDS];
  // The archive names the object wrongly: it was moved.
  await clip.ok('store', clip.path('tree.clip'), clip.path('tree.rclip'), ...at, '--s3-key', 'before');
  await clip.ok('store', clip.path('tree.clip'), clip.path('other.rclip'), ...at, '--s3-key', 'after');
  place = [...at, '--s3-key', 'after'];
}, 60_000);
afterAll(async () => {
  await clip?.close();
  await s3?.stop();
});

test('cat prints a file of an S3 archive, from the object that its flags name', async () => {
  expect((await clip.ok('cat', clip.path('tree.rclip'), '/etc/own', ...place)).stdout).toBe(expected);
});

test('cat and unpack index the layers of an archive of an image, and take them from another place', async () => {
  const cat = await clip.ok('cat', fixture('oci-2026-05'), '/etc/os-release', '--storage-image', image);
  expect(cat.stdout).toMatch(/^[ -~\n]{5,}$/);
  await clip.ok('unpack', fixture('oci-2026-05'), clip.path('tree'), '--storage-image', image);
  expect(readFileSync(clip.path('tree', 'etc/os-release'), 'utf8')).toBe(cat.stdout);
});

test('extract names the command that makes a directory of an image', async () => {
  const ran = await clip.run(['extract', fixture('oci-2026-05'), clip.path('out')]);
  expect([ran.code, ran.stderr]).toEqual([10, expect.stringContaining(`clipctl unpack ${fixture('oci-2026-05')}`)]);
});

test('run starts a container of an S3 archive, from the object that its flags name', async () => {
  const name = own('legacy-s3');
  const ran = await clip.run(['run', '--rm', '--name', name, ...place, clip.path('tree.rclip'), 'cat', '/etc/own']);
  expect([ran.code, ran.stdout, ran.stderr]).toEqual([0, expected, '']);
});

test('run of an archive whose data cannot be had says so in one line, with the next step', async () => {
  const wrong = ['--s3-endpoint', 'http://127.0.0.1:1', '--creds', CREDS];
  const ran = await clip.run(['run', '--rm', '--name', own('legacy-none'), ...wrong, clip.path('other.rclip'), 'true']);
  expect([ran.code, ran.stderr]).toEqual([
    125,
    expect.stringMatching(/^clipctl: .*etc\/(passwd|group) of the image cannot be read: EIO\n {2}clipd\.log.*\n$/),
  ]);
}, 60_000);

test('diff does not call a file changed whose time one archive has to the second only, as those of 2023', async () => {
  const { stdout } = await clip.ok('diff', fixture('local-2023-06'), fixture('local-2026-05'));
  expect(stdout).not.toContain('content');
});
