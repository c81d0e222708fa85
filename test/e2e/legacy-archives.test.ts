import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { lstat, open, readFile } from 'node:fs/promises';
import path from 'node:path';
import { PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { crc64 } from '../../src/bytes/index.js';
import { encodeIndex, localEnd, s3Archive } from '../../src/legacy/index.js';
import { Clipctl } from '../support/clipctl.js';
import { S3_CREDENTIALS, type ServerProcess, startS3 } from '../support/content-servers.js';
import { type ExpectedNode, expectedNodes, fixture, LOCAL, S3 } from '../support/legacy.js';
import { legacyNode as node } from '../support/legacy-node.js';
import { at, compareTree as compare } from '../support/legacy-tree.js';
import { sha256Of as sha256 } from '../support/mounted.js';

// Archives that the Go program made, mounted and read. Needs root and /dev/fuse.

const CREDS = `${S3_CREDENTIALS.accessKeyId}:${S3_CREDENTIALS.secretAccessKey}`;

/** The content of a file of a local archive, straight from the archive's bytes. */
function contentOf(archive: string): (node: ExpectedNode) => string {
  const bytes = readFileSync(fixture(archive));
  return ({ dataPos, dataLen }) => sha256(bytes.subarray(dataPos, dataPos + dataLen));
}

let clip: Clipctl;

beforeAll(async () => {
  clip = await Clipctl.create();
});

afterAll(() => clip.close());

describe('local archives', () => {
  test.each(LOCAL)('%s', async (name) => {
    const place = await clip.place(name);
    await clip.ok('mount', '--clip', fixture(name), '--at', place, '--suid');
    await compare(place, expectedNodes(name), contentOf(name));
    // They were read where they lie: nothing was fetched or cached.
    const { counters } = await clip.stats();
    expect(counters.spansChecked).toBeGreaterThan(0);
    expect(counters.cacheUsedBytes).toBe(0);
    await clip.ok('umount', place);
  });

  test('hard links of 2023 are one file with three names', async () => {
    const place = await clip.place('links');
    await clip.ok('mount', '--clip', fixture('local-2023-06'), '--at', place);
    const stats = await Promise.all(
      ['data/text.txt', 'data/text-link.txt', 'etc/text-link.txt'].map((p) => lstat(`${place}/${p}`)),
    );
    expect(new Set(stats.map(({ ino }) => ino)).size).toBe(1);
    expect(stats[0]!.nlink).toBe(3);
    await clip.ok('umount', place);
  });

  test('the tree of an archive is kept, and one that was damaged on the disk is made again', async () => {
    const own = await Clipctl.create();
    try {
      const place = await own.place('m');
      const mount = async (): Promise<void> => {
        await own.ok('mount', '--clip', fixture('local-2023-08'), '--at', place, '--suid');
        await compare(place, expectedNodes('local-2023-08'), contentOf('local-2023-08'));
        await own.ok('umount', place);
      };
      const kept = (): string[] => (existsSync(own.path('cache/trees')) ? readdirSync(own.path('cache/trees')) : []);
      await mount();
      await expect.poll(kept, { timeout: 10_000 }).toEqual([expect.stringMatching(/^[0-9a-f]{64}$/)]);
      await mount();
      const file = own.path('cache/trees', kept()[0]!);
      const bytes = readFileSync(file);
      bytes[bytes.length >> 1]! ^= 1;
      writeFileSync(file, bytes);
      await mount();
    } finally {
      await own.close();
    }
  });

  test('two archives of one tree at two paths are two mounts', async () => {
    const copy = clip.path('copy.clip');
    writeFileSync(copy, readFileSync(fixture('local-2026-05')));
    const [one, two] = [await clip.place('one'), await clip.place('two')];
    await clip.ok('mount', '--clip', fixture('local-2026-05'), '--at', one);
    await clip.ok('mount', '--clip', copy, '--at', two);
    await compare(two, expectedNodes('local-2026-05'), contentOf('local-2026-05'));
    await clip.ok('umount', one);
    await clip.ok('umount', two);
  });

  test('unpack tells an old archive of a directory what takes it', async () => {
    const ran = await clip.run(['unpack', '--clip', fixture('local-2026-05'), clip.path('no')]);
    expect(ran.code).not.toBe(0);
    expect(ran.stderr).toMatch(/is of a directory and not of an image\n {2}unpack it with: clipctl extract/);
  });
});

describe('damage', () => {
  test('a flipped bit in a file is EIO for its readers, and for no other', async () => {
    const bytes = readFileSync(fixture('local-2024-06'));
    const nodes = expectedNodes('local-2024-06');
    const victim = nodes.find(({ path }) => path === '/data/random.bin')!;
    bytes[victim.dataPos + 1000]! ^= 4;
    const archive = clip.path('damaged.clip');
    writeFileSync(archive, bytes);
    const place = await clip.place('damaged');
    await clip.ok('mount', '--clip', archive, '--at', place);
    await expect(readFile(`${place}/data/random.bin`)).rejects.toMatchObject({ code: 'EIO' });
    await expect(readFile(`${place}/data/random.bin`)).rejects.toMatchObject({ code: 'EIO' });
    expect(sha256(await readFile(`${place}/etc/hostname`))).toBe(
      nodes.find(({ path }) => path === '/etc/hostname')!.hash,
    );
    expect((await clip.stats()).counters.badContent).toBeGreaterThan(0);
    await clip.ok('umount', place);
  });

  test('a long file is read in pieces; damage is found with the last piece and stays found', async () => {
    const length = 9 * 1024 * 1024 + 5;
    const content = Buffer.alloc(length);
    for (let i = 0; i < length; i += 4096) content.writeUInt32LE(i, Math.min(i, length - 4));
    const start = 55;
    const sum = Buffer.alloc(8);
    sum.writeBigUInt64BE(crc64(content));
    const make = (damage: boolean): string => {
      const bytes = Buffer.from(content);
      if (damage) bytes[5_000_000]! ^= 1;
      const nodes = [node('/', { nodeType: 'dir', mode: 0o40755 }), node('/big', { dataPos: start, dataLen: length })];
      const { index, header } = localEnd(nodes, start + length + 8);
      const archive = clip.path(damage ? 'long-damaged.clip' : 'long.clip');
      writeFileSync(archive, Buffer.concat([header, Buffer.alloc(1), bytes, sum, index]));
      return archive;
    };
    const good = await clip.place('long');
    await clip.ok('mount', '--clip', make(false), '--at', good);
    // Backwards first, so that the pieces come in another order.
    const file = await open(`${good}/big`);
    const tail = Buffer.alloc(100_000);
    await file.read(tail, 0, tail.length, length - tail.length);
    await file.close();
    expect(tail.equals(content.subarray(length - tail.length))).toBe(true);
    expect((await readFile(`${good}/big`)).equals(content)).toBe(true);
    await clip.ok('umount', good);

    const bad = await clip.place('long-damaged');
    await clip.ok('mount', '--clip', make(true), '--at', bad);
    await expect(readFile(`${bad}/big`)).rejects.toMatchObject({ code: 'EIO' });
    // Every piece is refused by now, unless the kernel has it in its page cache.
    await clip.ok('umount', bad);
    await clip.ok('mount', '--clip', clip.path('long-damaged.clip'), '--at', bad);
    await expect(readFile(`${bad}/big`)).rejects.toMatchObject({ code: 'EIO' });
    await clip.ok('umount', bad);
  });
});

describe('S3 archives', () => {
  let server: ServerProcess;
  let client: S3Client;

  beforeAll(async () => {
    server = await startS3();
    client = new S3Client({
      region: 'us-east-1',
      endpoint: `http://127.0.0.1:${server.port}`,
      forcePathStyle: true,
      credentials: S3_CREDENTIALS,
    });
    for (const name of S3) {
      const Body = readFileSync(fixture(name.replace('s3', 'local')));
      await client.send(new PutObjectCommand({ Bucket: 'clip', Key: `at/${name}`, Body }));
    }
  });

  afterAll(async () => {
    client.destroy();
    await server.stop();
  });

  const override = (name: string): string[] => [
    ...['--s3-bucket', 'clip', '--s3-key', `at/${name}`, '--s3-endpoint', `http://127.0.0.1:${server.port}`],
    ...['--creds', CREDS],
  ];

  test.each(S3)('%s', async (name) => {
    const place = await clip.place(name);
    await clip.ok('mount', '--clip', fixture(name), '--at', place, ...override(name));
    await compare(place, expectedNodes(name), contentOf(name.replace('s3', 'local')));
    await clip.ok('umount', place);
  });

  test('what is cached is not fetched again, and one file costs one file', async () => {
    const own = await Clipctl.create();
    try {
      const place = await own.place('m');
      const mount = ['mount', '--clip', fixture('s3-2026-05'), '--at', place, ...override('s3-2026-05')];
      await own.ok(...mount);
      const text = await readFile(`${place}/data/random.bin`);
      const first = (await own.stats()).counters;
      expect(first.demandBytes).toBeGreaterThanOrEqual(text.length);
      expect(first.demandBytes).toBeLessThan(text.length + 4096);
      await own.stop();
      await own.ok(...mount);
      expect((await readFile(`${place}/data/random.bin`)).equals(text)).toBe(true);
      const second = (await own.stats()).counters;
      expect(second.demandBytes).toBe(0);
      expect(second.spansChecked).toBe(1);
    } finally {
      await own.close();
    }
  });

  test('what was cached of one object is not given for another that stands in for it', async () => {
    const own = await Clipctl.create();
    try {
      const place = await own.place('m');
      const name = 's3-2026-05';
      await own.ok('mount', '--clip', fixture(name), '--at', place, ...override(name));
      const honest = await readFile(`${place}/data/random.bin`);
      await own.ok('umount', place);
      // No such object: a byte that is read can only come from the cache, under the first object's name.
      const other = override(name).map((arg) => (arg === `at/${name}` ? 'at/nothing-there' : arg));
      await own.ok('mount', '--clip', fixture(name), '--at', place, ...other, '--read-timeout', '1');
      await expect(readFile(`${place}/data/random.bin`)).rejects.toMatchObject({ code: 'EIO' });
      await own.ok('umount', place);
      await own.ok('mount', '--clip', fixture(name), '--at', place, ...override(name));
      expect((await readFile(`${place}/data/random.bin`)).equals(honest)).toBe(true);
      await own.ok('umount', place);
    } finally {
      await own.close();
    }
  });

  test('files go to a content cache under their hashes, once, and come from there', async () => {
    const shared = clip.path('content');
    mkdirSync(shared);
    const nodes = expectedNodes('s3-2026-05').filter(({ type, size }) => type === 'file' && size > 0);
    const stored = (): string[] =>
      readdirSync(shared, { recursive: true, encoding: 'utf8' })
        .map((name) => path.basename(name))
        .filter((name) => /^[0-9a-f]{64}$/.test(name));
    const one = await Clipctl.create();
    const two = await Clipctl.create();
    try {
      const mount = (place: string): string[] => [
        ...['mount', '--clip', fixture('s3-2026-05'), '--at', place, ...override('s3-2026-05')],
        ...['--content-cache', `dir:${shared}`],
      ];
      const place = await one.place('m');
      await one.ok(...mount(place));
      for (const node of nodes) await readFile(at(place, node.path));
      const hashes = new Set(nodes.map(({ hash }) => hash));
      await expect.poll(() => stored().sort(), { timeout: 20_000 }).toEqual([...hashes].sort());
      expect((await one.stats()).counters).toMatchObject({ contentStored: hashes.size, legacyWrongHashes: 0 });

      const second = await two.place('m');
      await two.ok(...mount(second));
      await compare(second, expectedNodes('s3-2026-05'), contentOf('local-2026-05'));
      const { counters } = await two.stats();
      expect(counters.contentHits).toBeGreaterThan(0.9 * hashes.size);
      expect(counters.contentStored).toBe(0);
    } finally {
      await one.close();
      await two.close();
    }
  });

  // Attack: whoever makes an archive names the object, and the keys are those of the user who mounts it.
  test('an archive shows nothing of an object that is not its own', async () => {
    const length = 6 * 1024 * 1024;
    const secret = Buffer.alloc(length + 100_000, 'a secret ');
    const put = async (key: string, Body: Buffer): Promise<void> => {
      await client.send(new PutObjectCommand({ Bucket: 'clip', Key: key, Body }));
    };
    const location = {
      bucket: 'clip',
      region: 'us-east-1',
      endpoint: `http://127.0.0.1:${server.port}`,
      forcePathStyle: true,
    };
    /** An archive of one file: these bytes of an object. */
    const naming = (key: string, start: number, bytes: number): string => {
      const nodes = [node('/', { nodeType: 'dir', mode: 0o40755 }), node('/f', { dataPos: start, dataLen: bytes })];
      const path = clip.path(`${key.replace('/', '-')}-${start}-${bytes}.rclip`);
      writeFileSync(path, Buffer.concat(s3Archive(encodeIndex(nodes), { ...location, key })));
      return path;
    };
    // Another tenant's archive, and a document.
    const content = Buffer.from(secret.subarray(0, length));
    const sum = Buffer.alloc(8);
    sum.writeBigUInt64BE(crc64(content));
    const nodes = [node('/', { nodeType: 'dir', mode: 0o40755 }), node('/f', { dataPos: 55, dataLen: length })];
    const { index, header } = localEnd(nodes, 55 + length + 8);
    await put('others/archive', Buffer.concat([header, Buffer.alloc(1), content, sum, index]));
    await put('others/document', secret);
    const place = await clip.place('not-its-own');
    const read = async (archive: string, offset: number, count: number): Promise<Buffer> => {
      await clip.ok(
        'mount',
        '--clip',
        archive,
        '--at',
        place,
        '--creds',
        CREDS,
        '--read-timeout',
        '5',
        '--no-readahead',
      );
      try {
        const file = await open(`${place}/f`);
        try {
          const { buffer, bytesRead } = await file.read(Buffer.alloc(count), 0, count, offset);
          return buffer.subarray(0, bytesRead);
        } finally {
          await file.close();
        }
      } finally {
        await clip.ok('umount', place);
      }
    };
    const long = 5 * 1024 * 1024;
    for (const archive of [
      naming('others/document', 1000, 100),
      naming('others/document', 1000, long),
      naming('others/archive', 1000, 100),
      naming('others/archive', 1000, long),
      naming('others/archive', 55, length - 1),
    ]) {
      await expect(read(archive, 0, 100), archive).rejects.toMatchObject({ code: 'EIO' });
    }
    expect(readFileSync(clip.path('root/clipd.log'), 'utf8')).toMatch(
      /is not the data of .*: its index is another one/,
    );
    expect(readFileSync(clip.path('root/clipd.log'), 'utf8')).not.toContain('secret ');
    // Its own archive reads a piece of it, and no more than that, its header and its index.
    const before = (await clip.stats()).counters.demandBytes!;
    const own = naming('others/archive', 55, length);
    expect((await read(own, 3_000_000, 100)).equals(content.subarray(3_000_000, 3_000_100))).toBe(true);
    expect((await clip.stats()).counters.demandBytes! - before).toBeLessThan(2 * 1024 * 1024);
  });

  test('credentials of the environment are used, and wrong ones are told', async () => {
    const own = await Clipctl.create();
    try {
      const place = await own.place('m');
      const where = override('s3-2026-05').slice(0, -2);
      const keys = { AWS_ACCESS_KEY_ID: 'NOBODY', AWS_SECRET_ACCESS_KEY: 'S3RVER' };
      const mount = ['mount', '--clip', fixture('s3-2026-05'), '--at', place, ...where];
      expect((await own.run(mount, { env: keys })).code).toBe(0);
      await expect(readFile(`${place}/etc/hostname`)).rejects.toMatchObject({ code: 'EIO' });
      await own.ok('umount', place);
      expect((await own.run(mount, { env: { ...keys, AWS_ACCESS_KEY_ID: 'S3RVER' } })).code).toBe(0);
      expect(await readFile(`${place}/etc/hostname`, 'utf8')).not.toBe('');
    } finally {
      await own.close();
    }
  });

  test('an override that is not for this archive is refused', async () => {
    const place = await clip.place('wrong');
    const ran = await clip.run(['mount', '--clip', fixture('local-2026-05'), '--at', place, '--s3-bucket', 'x']);
    expect(ran.code).toBe(2);
    expect(ran.stderr).toMatch(/S3 bucket given, but the data of this archive is in its own file/);
  });
});
