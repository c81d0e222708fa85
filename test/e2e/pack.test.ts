import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { ListObjectsV2Command, S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { createAndUploadArchive, createArchive, extractArchive, storeS3 } from '../../src/index.js';
import { encodeIndex, HEADER_SIZE, type LegacyNode, localEnd } from '../../src/legacy/index.js';
import { Clipctl } from '../support/clipctl.js';
import { cutter, S3_CREDENTIALS, type ServerProcess, startS3 } from '../support/content-servers.js';
import { expectedNodes, fixture, LEGACY, LOCAL, OCI } from '../support/legacy.js';
import { legacyNode as node } from '../support/legacy-node.js';
import { type S3Request, startS3Front } from '../support/s3-front.js';

// Version 1 archives made, unpacked and uploaded. Needs root.

let directory: string;
const at = (...parts: string[]): string => path.join(directory, ...parts);

/** Everything that find(1) tells of a tree, and the content; directories' sizes are the file system's own business. */
function describeTree(root: string): string {
  const listed = execFileSync('find', ['.', '-printf', '%p|%y|%m|%U:%G|%n|%s|%T@|%l\\0'], {
    cwd: root,
    encoding: 'latin1',
  });
  const lines = listed.split('\0').filter(Boolean);
  const named = lines.map((line) => {
    const [name, type, mode, owner, links, size, time, target] = line.split('|');
    if (type === 'd') return [name, type, mode, owner, time].join('|');
    const file = Buffer.concat([Buffer.from(`${root}/`), Buffer.from(name!, 'latin1')]);
    const content = type === 'f' ? createHash('sha256').update(readFileSync(file)).digest('hex') : '';
    return [name, type, mode, owner, links, size, time, target, content].join('|');
  });
  return named.sort().join('\n');
}

beforeAll(() => {
  directory = mkdtempSync(path.join(os.tmpdir(), 'clip-pack-'));
  const tree = at('tree');
  mkdirSync(path.join(tree, 'deep/er'), { recursive: true });
  writeFileSync(path.join(tree, 'file'), 'some text\n');
  linkSync(path.join(tree, 'file'), path.join(tree, 'deep/link'));
  writeFileSync(path.join(tree, 'empty'), '');
  writeFileSync(path.join(tree, 'big'), createHash('shake256', { outputLength: 9_000_001 }).update('x').digest());
  writeFileSync(Buffer.from(`${tree}/\xff\nodd`, 'latin1'), 'odd');
  symlinkSync('../../nowhere', path.join(tree, 'deep/dangling'));
  execFileSync('mkfifo', [path.join(tree, 'fifo')]);
  execFileSync('mknod', [path.join(tree, 'null'), 'c', '1', '3']);
  chownSync(path.join(tree, 'big'), 1234, 70_000);
  chmodSync(path.join(tree, 'file'), 0o4755);
  chmodSync(path.join(tree, 'deep'), 0o3711);
  execFileSync('touch', ['-d', '1965-01-02T03:04:05.123456789', path.join(tree, 'empty')]);
  execFileSync('touch', [
    '-h',
    '-d',
    '2001-02-03T04:05:06.000000001',
    path.join(tree, 'deep/dangling'),
    path.join(tree, 'deep'),
  ]);
  for (let i = 0; i < 600; i++) writeFileSync(path.join(tree, `deep/er/${i}`), `file ${i}\n`.repeat(i));
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

describe('createArchive and extractArchive', () => {
  test('what is unpacked is what was packed, down to owners, links and nanoseconds', async () => {
    const made = await createArchive({ inputPath: at('tree'), outputPath: at('tree.clip') });
    expect(made).toMatchObject({ warnings: [], files: 604 });
    const out = await extractArchive({ archivePath: at('tree.clip'), outputPath: at('out') });
    expect(out.contentBytes).toBe(made.contentBytes);
    expect(describeTree(at('out'))).toBe(describeTree(at('tree')));
    const again = await createArchive({ inputPath: at('tree'), outputPath: at('again.clip') });
    expect(again.size).toBe(made.size);
    expect(readFileSync(at('again.clip')).equals(readFileSync(at('tree.clip')))).toBe(true);
  });

  test('what is mounted is what was packed', async () => {
    const clip = await Clipctl.create();
    try {
      await clip.ok('create', at('tree'), '--out', clip.path('tree.clip'));
      const place = await clip.place('m');
      await clip.ok('mount', '--clip', clip.path('tree.clip'), '--at', place, '--suid', '--dev');
      // By other processes: this one must not wait for its own event loop.
      const list = (root: string): string =>
        execFileSync('tar', ['-c', '--sort=name', '--numeric-owner', '--format=gnu', '-C', root, '.'], {
          maxBuffer: 1 << 28,
        }).toString('hex');
      expect(list(place) === list(at('tree'))).toBe(true);
    } finally {
      await clip.close();
    }
  });

  test.each(LOCAL)('%s unpacks', async (name) => {
    const outputPath = at(`out-${name}`);
    await extractArchive({ archivePath: fixture(name), outputPath });
    for (const node of expectedNodes(name)) {
      const file = Buffer.concat([Buffer.from(outputPath), Buffer.from(node.path, 'latin1')]);
      const stat = lstatSync(file);
      expect({ path: node.path, mode: stat.mode & 0o7777, uid: stat.uid }).toEqual({
        path: node.path,
        mode: node.mode,
        uid: node.uid,
      });
      if (node.type === 'file' && node.hash !== '') {
        expect(createHash('sha256').update(readFileSync(file)).digest('hex')).toBe(node.hash);
      }
    }
  });

  test('extended attributes are refused with the path, or left out and told', async () => {
    mkdirSync(at('attributes'));
    writeFileSync(at('attributes/x'), 'x');
    execFileSync('setfattr', ['-n', 'user.note', '-v', 'n', at('attributes/x')]);
    const options = { inputPath: at('attributes'), outputPath: at('attributes.clip') };
    await expect(createArchive(options)).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(/attributes\/x has extended attributes \(user\.note\)/),
    });
    expect(existsSync(options.outputPath)).toBe(false);
    const made = await createArchive({ ...options, skipUnsupported: true });
    expect(made.warnings).toEqual([expect.stringMatching(/x: left out extended attributes: user\.note/)]);
  });

  test('an interrupted pack leaves nothing', async () => {
    const abort = new AbortController();
    const working = createArchive({
      inputPath: at('tree'),
      outputPath: at('never.clip'),
      signal: abort.signal,
      onProgress: () => abort.abort(),
    });
    await expect(working).rejects.toMatchObject({ code: 'ABORTED' });
    expect(readdirSync(directory).filter((name) => name.includes('never'))).toEqual([]);
  });

  test('an archive of an image is told from one that holds its data', async () => {
    await expect(extractArchive({ archivePath: fixture(OCI[0]), outputPath: at('image') })).rejects.toMatchObject({
      code: 'UNSUPPORTED',
    });
  });
});

describe('hostile archives cannot leave the directory that they are unpacked to', () => {
  const ROOT = node('/', { nodeType: 'dir', mode: 0o40755 });
  const link = (name: string, target: string): LegacyNode =>
    node(name, { nodeType: 'symlink', mode: 0o120777, target: Buffer.from(target) });

  test.each([
    ['a path with ..', [ROOT, node('/../../escape')]],
    ['a relative path with ..', [ROOT, node('../escape')]],
    ['a symlink as parent, absolute', () => [ROOT, link('/a', at('outside')), node('/a/escape')]],
    ['a symlink as parent, relative', [ROOT, link('/a', '../outside'), node('/a/escape')]],
    ['a symlink replaced by a file', () => [ROOT, link('/escape', at('outside/escape')), node('/escape')]],
    [
      'a hard link through a symlink',
      () => [
        ROOT,
        link('/a', at('outside')),
        node('/a/escape', { ino: 5, nlink: 2 }),
        node('/b', { ino: 5, nlink: 2 }),
      ],
    ],
  ])('%s', async (_, given) => {
    rmSync(at('outside'), { recursive: true, force: true });
    rmSync(at('jail'), { recursive: true, force: true });
    mkdirSync(at('outside'));
    const nodes = typeof given === 'function' ? given() : given;
    const { index, header } = localEnd(nodes, HEADER_SIZE + 100);
    writeFileSync(at('hostile.clip'), Buffer.concat([header, Buffer.alloc(100), index]));
    // Whether it is refused or unpacked inside: nothing may be outside.
    await extractArchive({ archivePath: at('hostile.clip'), outputPath: at('jail') }).catch(() => {});
    expect(readdirSync(at('outside'))).toEqual([]);
    expect(existsSync(at('escape')) || existsSync(path.join(directory, '..', 'escape'))).toBe(false);
  });

  test('a directory that is not empty is refused: what is in it could lead out', async () => {
    rmSync(at('full'), { recursive: true, force: true });
    mkdirSync(at('full'));
    chmodSync(at('full'), 0o755);
    symlinkSync('/', at('full/deep'));
    await expect(extractArchive({ archivePath: fixture(LOCAL[0]), outputPath: at('full') })).rejects.toMatchObject({
      code: 'CONFLICT',
    });
    expect(lstatSync(at('full')).mode & 0o777).toBe(0o755);
  });

  test('damaged data is told by file, and the others are unpacked', async () => {
    const bytes = readFileSync(fixture('local-2024-06'));
    const victim = expectedNodes('local-2024-06').find((one) => one.path === '/data/random.bin')!;
    bytes[victim.dataPos + 7]! ^= 1;
    writeFileSync(at('damaged.clip'), bytes);
    await expect(extractArchive({ archivePath: at('damaged.clip'), outputPath: at('damaged') })).rejects.toMatchObject({
      code: 'DIGEST_MISMATCH',
      message: expect.stringMatching(/^1 file not unpacked: .*data\/random\.bin/),
    });
    expect(existsSync(at('damaged/data/random.bin'))).toBe(false);
    expect(readFileSync(at('damaged/etc/hostname'), 'utf8')).not.toBe('');
  });
});

describe('S3', () => {
  let server: ServerProcess;
  let client: S3Client;
  const place = (port = server.port) => ({ bucket: 'clip', endpoint: `http://127.0.0.1:${port}` });

  beforeAll(async () => {
    server = await startS3();
    client = new S3Client({
      region: 'us-east-1',
      endpoint: place().endpoint,
      forcePathStyle: true,
      credentials: S3_CREDENTIALS,
    });
    await createArchive({ inputPath: at('tree'), outputPath: at('s3.clip') });
  });

  afterAll(async () => {
    client.destroy();
    await server.stop();
  });

  test('stored by multipart with progress, and unpacked from there', async () => {
    let last = 0;
    const stored = await storeS3({
      archivePath: at('s3.clip'),
      outputPath: at('s3.rclip'),
      storageInfo: { ...place(), key: 'a/b.clip' },
      credentials: S3_CREDENTIALS,
      onProgress: (done, total) => {
        expect(done).toBeGreaterThanOrEqual(last);
        expect(total).toBe(lstatSync(at('s3.clip')).size);
        last = done;
      },
    });
    expect(last).toBe(stored.objectSize);
    await extractArchive({ archivePath: at('s3.rclip'), outputPath: at('from-s3'), credentials: S3_CREDENTIALS });
    expect(describeTree(at('from-s3'))).toBe(describeTree(at('tree')));
  });

  test('createAndUploadArchive leaves the .rclip and the object', async () => {
    const made = await createAndUploadArchive(
      { inputPath: at('tree'), outputPath: at('direct.rclip') },
      place(),
      S3_CREDENTIALS,
    );
    expect(made.location.key).toBe('direct.clip');
    await extractArchive({ archivePath: at('direct.rclip'), outputPath: at('direct'), credentials: S3_CREDENTIALS });
    expect(describeTree(at('direct'))).toBe(describeTree(at('tree')));
    expect(readdirSync(directory).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });

  // Called off at each step of an upload in parts, the one that begins it among them.
  test.each<[string, (request: S3Request) => boolean]>([
    ['while S3 begins it', ({ query }) => query.has('uploads')],
    ['while a part is on its way', ({ query }) => query.get('partNumber') === '1'],
  ])('an upload that is interrupted %s leaves no object, no parts and no .rclip', async (_, when) => {
    const front = await startS3Front(server.port);
    const abort = new AbortController();
    front.before = (request) => {
      if (when(request)) abort.abort();
      return undefined;
    };
    try {
      const working = storeS3({
        archivePath: at('s3.clip'),
        outputPath: at('cut.rclip'),
        storageInfo: { bucket: 'clip', endpoint: front.endpoint, key: 'cut.clip' },
        credentials: S3_CREDENTIALS,
        signal: abort.signal,
      });
      await expect(working).rejects.toMatchObject({ code: 'ABORTED' });
      expect(front.requests.some(({ query }) => query.has('uploads'))).toBe(true);
      expect([...front.unfinished]).toEqual([]);
      expect(front.orphans).toBe(0);
      expect(existsSync(at('cut.rclip'))).toBe(false);
      const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket: 'clip', Prefix: 'cut' }));
      expect(Contents).toEqual([]);
    } finally {
      await front.close();
    }
  });

  test('an upload that is interrupted when all parts are there is completed', async () => {
    const front = await startS3Front(server.port);
    const abort = new AbortController();
    front.before = ({ method, query }) => {
      if (method === 'POST' && query.has('uploadId')) abort.abort();
      return undefined;
    };
    try {
      await storeS3({
        archivePath: at('s3.clip'),
        outputPath: at('late.rclip'),
        storageInfo: { bucket: 'clip', endpoint: front.endpoint, key: 'late.clip' },
        credentials: S3_CREDENTIALS,
        signal: abort.signal,
      });
      expect(abort.signal.aborted && existsSync(at('late.rclip'))).toBe(true);
      expect([...front.unfinished]).toEqual([]);
    } finally {
      await front.close();
    }
  });

  test('an upload that S3 refuses half-way leaves no parts, and the reason is told', async () => {
    const front = await startS3Front(server.port);
    front.before = ({ query }) => (query.get('partNumber') === '2' ? 403 : undefined);
    try {
      const working = storeS3({
        archivePath: at('s3.clip'),
        outputPath: at('cut.rclip'),
        storageInfo: { bucket: 'clip', endpoint: front.endpoint, key: 'cut.clip' },
        credentials: S3_CREDENTIALS,
      });
      await expect(working).rejects.toMatchObject({
        code: 'UNAUTHORIZED',
        message: expect.stringMatching(/s3:\/\/clip\/cut\.clip at .*: 403/) as string,
      });
      expect([...front.unfinished]).toEqual([]);
    } finally {
      await front.close();
    }
  });

  test('a connection that breaks in a range is taken up again', async () => {
    const gate = await cutter(server.port);
    gate.after = 3_000_000;
    try {
      await extractArchive({
        archivePath: at('s3.rclip'),
        outputPath: at('cut'),
        storageInfo: { endpoint: `http://127.0.0.1:${gate.port}` },
        credentials: S3_CREDENTIALS,
      });
      expect(gate.cuts).toBeGreaterThan(0);
      expect(describeTree(at('cut'))).toBe(describeTree(at('tree')));
    } finally {
      await gate.close();
    }
  });

  test('what is missing is told with the bucket, the key and the next step', async () => {
    await expect(
      extractArchive({
        archivePath: at('s3.rclip'),
        outputPath: at('missing'),
        storageInfo: { key: 'no/such' },
        credentials: S3_CREDENTIALS,
      }),
    ).rejects.toMatchObject({ code: 'NOT_FOUND', message: expect.stringMatching(/s3:\/\/clip\/no\/such at http/) });
  });
});

describe('clipctl', () => {
  test('create, inspect, verify, extract and convert print what they did', async () => {
    const clip = await Clipctl.create();
    try {
      const archive = clip.path('a.clip');
      expect((await clip.ok('create', at('tree'), '--out', archive)).stdout).toMatch(/names/);
      expect(await clip.json('inspect', '--clip', archive)).toMatchObject({ version: 1, storage: { kind: 'local' } });
      expect((await clip.ok('inspect', '--clip', archive)).stdout).toMatch(/data +in this file/);
      expect((await clip.ok('verify', '--clip', archive)).stdout).toMatch(/604 files: all as indexed/);
      expect((await clip.ok('extract', '--clip', archive, '--out', clip.path('x'))).stdout).toMatch(
        /every checksum right/,
      );
      const image = `oci:${LEGACY}/oci-image:1`;
      await clip.ok('convert', fixture('oci-2025-11'), clip.path('v3.clip'), '--storage-image', image);
      expect(await clip.json('inspect', '--clip', clip.path('v3.clip'))).toMatchObject({ version: 3 });
      const old = await clip.ok('verify', '--clip', fixture('oci-2025-11'), '--storage-image', image);
      expect(old.stdout).toMatch(/3 layers/);
      const no = await clip.run(['convert', archive, clip.path('no.clip')]);
      expect([no.code, no.stderr]).toEqual([
        EXIT_CODES.UNSUPPORTED,
        expect.stringMatching(/is of a directory and not of an image/),
      ]);
    } finally {
      await clip.close();
    }
  });

  test('verify finds damage, and takes a wrong hash for what it is', async () => {
    const clip = await Clipctl.create();
    try {
      const bytes = readFileSync(fixture('local-2023-06'));
      bytes[expectedNodes('local-2023-06').find((one) => one.path === '/data/random.bin')!.dataPos]! ^= 1;
      writeFileSync(clip.path('bad.clip'), bytes);
      const bad = await clip.run(['verify', '--clip', clip.path('bad.clip')]);
      expect([bad.code, bad.stdout]).toEqual([1, expect.stringMatching(/CRC-64/)]);
      // The data of one archive with an index that claims another hash for one file.
      const wrong = Buffer.from('ab'.repeat(32));
      const data = readFileSync(fixture('local-2024-06'));
      const { dataPos, dataLen } = expectedNodes('local-2024-06').find((one) => one.path === '/etc/hostname')!;
      const index = encodeIndex([
        node('/', { nodeType: 'dir', mode: 0o40755 }),
        node('/h', { dataPos, dataLen, contentHash: wrong }),
      ]);
      const made = Buffer.concat([data.subarray(0, 1_210_000), Buffer.alloc(10_000), index]);
      made.writeBigInt64LE(BigInt(index.length), 10);
      made.writeBigInt64LE(BigInt(made.length - index.length), 18);
      writeFileSync(clip.path('wrong.clip'), made);
      const ran = await clip.ok('verify', '--clip', clip.path('wrong.clip'));
      expect(ran.stdout).toMatch(/note: file nid \d+: its content has another SHA-256, but its checksum is right/);
      const place = await clip.place('m');
      await clip.ok('mount', '--clip', clip.path('wrong.clip'), '--at', place);
      expect(execFileSync('cat', [`${place}/h`]).length).toBe(dataLen);
    } finally {
      await clip.close();
    }
  });
});
