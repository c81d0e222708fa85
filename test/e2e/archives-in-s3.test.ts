import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { GetObjectCommand, ListObjectsV2Command, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  createAndUploadOCIArchive,
  createFromOCIImage,
  fetchArchive,
  inspectArchive,
  mountArchive,
} from '../../src/index.js';
import { digestOf } from '../../src/oci/index.js';
import { Clipctl } from '../support/clipctl.js';
import { S3_CREDENTIALS, type ServerProcess, startS3 } from '../support/content-servers.js';
import { layerLike } from '../support/gzip.js';
import { type TestImage, writeImage } from '../support/images.js';
import { fixture } from '../support/legacy.js';
import { type S3Front, startS3Front } from '../support/s3-front.js';
import { file, tar } from '../support/tar.js';

// Archives as objects in S3, against the S3 protocol of s3rver. Needs root.

let clip: Clipctl;
let server: ServerProcess;
let front: S3Front;
let client: S3Client;
let [image, other]: TestImage[] = [];
/** What the AWS SDK finds. */
let env: NodeJS.ProcessEnv;

beforeAll(async () => {
  clip = await Clipctl.create();
  server = await startS3();
  front = await startS3Front(server.port);
  const { accessKeyId, secretAccessKey } = S3_CREDENTIALS;
  env = {
    AWS_ACCESS_KEY_ID: accessKeyId,
    AWS_SECRET_ACCESS_KEY: secretAccessKey,
    AWS_ENDPOINT_URL_S3: front.endpoint,
    AWS_REGION: 'us-east-1',
  };
  client = new S3Client({
    region: 'us-east-1',
    endpoint: front.endpoint,
    forcePathStyle: true,
    credentials: S3_CREDENTIALS,
  });
  image = writeImage([tar(file('a', 'first'), file('big', layerLike(2_000_000)))]);
  other = writeImage([tar(file('b', 'second'))]);
  for (const [name, { reference }] of Object.entries({ image, other })) {
    await createFromOCIImage({ imageRef: reference, outputPath: clip.path(`${name}.clip`) });
  }
});

afterAll(async () => {
  await clip?.close();
  client?.destroy();
  await front?.close();
  await server?.stop();
  for (const one of [image, other]) one?.remove();
});

/** Each kind of failure has its exit code (docs/cli.md). */
const FAILED = expect.toSatisfy((code: number) => code > 0 && code < 128) as number;

const url = (key: string): string => `s3://clip/${key}`;
const ok = async (...args: string[]): Promise<string> => {
  const ran = await clip.run(args, { env });
  if (ran.code !== 0) throw new Error(`${args.join(' ')}: ${ran.stderr}`);
  return ran.stdout;
};
const methods = (): string[] => front.requests.map(({ method }) => method);

test('an archive is pushed, the same once more changes nothing, another replaces it', async () => {
  const bytes = readFileSync(clip.path('image.clip'));
  const push = async (name: string) => JSON.parse(await ok('push', '--clip', clip.path(name), url('p.clip'), '--json'));
  expect(await push('image.clip')).toMatchObject({
    changed: true,
    reference: 's3://clip/p.clip',
    archiveDigest: digestOf(bytes),
  });
  const { Body } = await client.send(new GetObjectCommand({ Bucket: 'clip', Key: 'p.clip' }));
  expect(Buffer.from(await Body!.transformToByteArray()).equals(bytes)).toBe(true);

  front.requests.length = 0;
  expect(await push('image.clip')).toMatchObject({ changed: false, archiveDigest: digestOf(bytes) });
  expect(methods()).toEqual(['HEAD']);
  expect(await push('other.clip')).toMatchObject({ changed: true });
});

test('every command that takes an archive takes one in S3', async () => {
  await ok('push', '--clip', clip.path('image.clip'), url('all.clip'));
  const named = ['--clip', url('all.clip')];
  expect(await ok('ls', ...named)).toMatch(/^a$/m);
  expect(await ok('inspect', ...named)).toMatch(/version 3/);
  expect(await ok('verify', ...named)).toMatch(/all as indexed/);
  const place = await clip.place('m');
  await ok('mount', ...named, '--at', place);
  expect(readFileSync(`${place}/a`, 'utf8')).toBe('first');
  await ok('umount', place);
  await ok('unpack', ...named, clip.path('unpacked'));
  expect(readFileSync(clip.path('unpacked/a'), 'utf8')).toBe('first');
  // The server as a flag, and in the URL.
  const elsewhere = { env: { ...env, AWS_ENDPOINT_URL_S3: 'http://127.0.0.1:9' } };
  for (const args of [
    [...named, '--s3-endpoint', front.endpoint],
    ['--clip', `${url('all.clip')}?endpoint=${front.endpoint}&region=eu-west-1`],
  ]) {
    expect(await clip.run(['ls', ...args], elsewhere)).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^a$/m),
    });
    const at = ['mount', ...args, '--at', place];
    expect(await clip.run(at, elsewhere)).toMatchObject({ code: 0, stderr: '' });
    await ok('umount', place);
  }
});

test('an object that has not changed costs one request, and one that has is fetched again', async () => {
  await ok('push', '--clip', clip.path('image.clip'), url('c.clip'));
  expect(await ok('ls', '--clip', url('c.clip'))).toMatch(/^a$/m);
  front.requests.length = 0;
  expect(await ok('ls', '--clip', url('c.clip'))).toMatch(/^a$/m);
  expect(methods()).toEqual(['HEAD']);

  await ok('push', '--clip', clip.path('other.clip'), url('c.clip'));
  expect(await ok('ls', '--clip', url('c.clip'))).toMatch(/^b$/m);
  front.requests.length = 0;
  expect(await ok('ls', '--clip', url('c.clip'), '--pull', 'never')).toMatch(/^b$/m);
  expect(methods()).toEqual([]);

  // S3 is away: as it was, and the user is told.
  front.before = () => 503;
  try {
    const ran = await clip.run(['ls', '--clip', url('c.clip')], { env });
    expect(ran).toMatchObject({ code: 0, stderr: expect.stringMatching(/note: .*503.* as it was at 20/) });
  } finally {
    front.before = null;
  }
});

test('an object that is replaced while it is fetched is fetched as a whole', async () => {
  const put = async (name: string): Promise<void> => {
    const Body = readFileSync(clip.path(`${name}.clip`));
    await client.send(new PutObjectCommand({ Bucket: 'clip', Key: 'swap.clip', Body }));
  };
  await put('image');
  let swapped = false;
  front.before = async ({ method }) => {
    if (method !== 'GET' || swapped) return undefined;
    swapped = true;
    await put('other');
    return undefined;
  };
  try {
    expect(await ok('ls', '--clip', url('swap.clip'))).toMatch(/^b$/m);
  } finally {
    front.before = null;
  }
});

test('a pinned archive is taken, and another one is not', async () => {
  await ok('push', '--clip', clip.path('image.clip'), url('pin.clip'));
  const digest = digestOf(readFileSync(clip.path('image.clip')));
  expect(await ok('ls', '--clip', url('pin.clip'), '--index-digest', digest)).toMatch(/^a$/m);
  const wrong = await clip.run(['ls', '--clip', url('pin.clip'), '--index-digest', digestOf(Buffer.from('x'))], {
    env,
  });
  expect(wrong).toMatchObject({ code: FAILED, stderr: expect.stringMatching(/is the archive sha256:.*, not sha256:/) });
});

// Attack: whoever may write to the bucket puts something else there.
test('an object that is no archive, or is cut off, is refused by name and not kept', async () => {
  const bytes = readFileSync(clip.path('image.clip'));
  for (const Body of [Buffer.from('no archive at all'), Buffer.alloc(0), bytes.subarray(0, bytes.length - 100)]) {
    await client.send(new PutObjectCommand({ Bucket: 'clip', Key: 'bad.clip', Body }));
    const ran = await clip.run(['ls', '--clip', url('bad.clip')], { env });
    expect(ran).toMatchObject({ code: FAILED, stderr: expect.stringMatching(/s3:\/\/clip\/bad\.clip/) });
  }
});

test.each([
  ['s3://clip/none.clip', /s3:\/\/clip\/none\.clip: 404/],
  ['s3://no-such-bucket/a', /404/],
  ['s3://clip', /does not name an object in S3/],
  ['s3://clip/', /does not name an object in S3/],
  ['s3://clip/a?endpont=x', /does not name an object in S3/],
  ['s3://clip/a?endpoint=minio:9000', /is not the URL of a server/],
])('%s is an error with a reason', async (name, reason) => {
  for (const args of [
    ['ls', '--clip', name],
    ['push', '--clip', clip.path('image.clip'), name],
  ]) {
    if (args[0] === 'push' && name.includes('none')) continue;
    const ran = await clip.run(args, { env });
    expect(ran).toMatchObject({ code: FAILED, stderr: expect.stringMatching(reason) });
  }
});

test('old archives are taken from S3 as well, and their data from where they say or where the flags say', async () => {
  const rclip = fixture('s3-2026-05');
  await client.send(new PutObjectCommand({ Bucket: 'clip', Key: 'old.rclip', Body: readFileSync(rclip) }));
  const data = readFileSync(fixture('local-2026-05'));
  await client.send(new PutObjectCommand({ Bucket: 'clip', Key: 'data', Body: data }));
  const where = ['--s3-endpoint', front.endpoint, '--s3-bucket', 'clip', '--s3-key', 'data'];
  const place = await clip.place('old');
  await ok('mount', '--clip', url('old.rclip'), '--at', place, ...where);
  const script = `cat ${place}/etc/hostname`;
  expect((await clip.run(['ls', '--clip', url('old.rclip'), '/etc'], { env })).stdout).toMatch(/hostname/);
  const { execFile } = await import('node:child_process');
  const text = await new Promise<string>((resolve) => {
    execFile('sh', ['-c', script], (_, stdout) => resolve(stdout));
  });
  expect(text).not.toBe('');
  await ok('umount', place);
  await ok('extract', '--clip', url('old.rclip'), '--out', clip.path('extracted'), ...where);
  expect(readFileSync(clip.path('extracted/etc/hostname'), 'utf8')).toBe(text);
});

test('createAndUploadOCIArchive leaves the file and the object, or neither', async () => {
  const options = { imageRef: image!.reference, outputPath: clip.path('made.clip') };
  const made = await createAndUploadOCIArchive(
    options,
    { bucket: 'clip', key: 'x/made.clip', endpoint: front.endpoint },
    S3_CREDENTIALS,
  );
  const bytes = readFileSync(options.outputPath);
  expect(made).toMatchObject({ outputPath: options.outputPath, changed: true, archiveDigest: digestOf(bytes) });
  expect(made.location).toMatchObject({ bucket: 'clip', key: 'x/made.clip' });
  const { Body } = await client.send(new GetObjectCommand({ Bucket: 'clip', Key: 'x/made.clip' }));
  expect(Buffer.from(await Body!.transformToByteArray()).equals(bytes)).toBe(true);

  const never = { ...options, outputPath: clip.path('never.clip') };
  const place = { bucket: 'no-such-bucket', endpoint: front.endpoint };
  await expect(createAndUploadOCIArchive(never, place, S3_CREDENTIALS)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  expect(existsSync(never.outputPath)).toBe(false);
  expect(readdirSync(clip.path('')).filter((name) => name.includes('never'))).toEqual([]);
  const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket: 'clip', Prefix: 'never' }));
  expect(Contents).toEqual([]);
});

test('the library fetches an archive and mounts one from S3', async () => {
  await ok('push', '--clip', clip.path('image.clip'), url('lib.clip'));
  const cachePath = clip.path('library-cache');
  const named = `${url('lib.clip')}?endpoint=${front.endpoint}`;
  const path = await fetchArchive(named, { cachePath, credentials: S3_CREDENTIALS });
  expect(readFileSync(path).equals(readFileSync(clip.path('image.clip')))).toBe(true);
  expect(inspectArchive(path).version).toBe(3);
  const mounted = mountArchive({
    archivePath: named,
    mountPoint: await clip.place('library'),
    cachePath,
    credentials: S3_CREDENTIALS,
  });
  await mounted.start();
  expect(readFileSync(`${clip.path('')}/library/a`, 'utf8')).toBe('first');
  await mounted.unmount();
  await expect(fetchArchive('s3://clip', {})).rejects.toMatchObject({ code: 'BAD_REFERENCE' });
  await expect(fetchArchive(named, { pull: 'often' as never })).rejects.toMatchObject({ code: 'USAGE' });
});
