import { type ChildProcess, execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ErrorCode, EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl } from '../support/clipctl.js';
import { compareTrees, snapshotTree } from '../support/compare.js';
import { layerLike } from '../support/gzip.js';
import { type Compression, writeImage } from '../support/images.js';
import { sha256Of } from '../support/mounted.js';
import { type RegistryProxy, startProxy } from '../support/proxy.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { dir, file, gnuSparse, tar } from '../support/tar.js';
import { makeRichImage, type RichImage } from './rich-image.js';

// `clipctl unpack`: a directory that is the image, to the last attribute. The mount of the same archive and umoci are the oracles.

let clip: Clipctl;
let rich: RichImage;

beforeAll(async () => {
  clip = await Clipctl.create();
  rich = makeRichImage();
});
afterAll(async () => {
  rich.remove();
  await clip.close();
});

test('is what the mount shows: owners, modes, times, links, devices, xattrs, names that are no text', async () => {
  const at = clip.path('rich');
  await clip.ok('unpack', '--image', rich.reference, at);
  const place = await clip.place('place');
  await clip.ok('mount', '--image', rich.reference, '--at', place, '--dev', '--suid');
  // A file system counts the links of directories as it likes.
  const lines = compareTrees(snapshotTree(place), snapshotTree(at)).filter((line) => !/nlink/.test(line));
  expect(lines).toEqual([]);
  await clip.ok('umount', place);
  expect(existsSync(`${at}.clip-unpack`)).toBe(false);
});

test('is what umoci unpacks', async () => {
  const bundle = clip.path('umoci');
  execFileSync('umoci', ['unpack', '--image', rich.reference.replace(/^oci:/, ''), bundle], { stdio: 'pipe' });
  const lines = compareTrees(snapshotTree(join(bundle, 'rootfs')), snapshotTree(clip.path('rich'))).filter(
    (line) => !/nlink/.test(line),
  );
  // Directories that no layer names are umoci's to date.
  expect(lines.filter((line) => !/^\.:|mtime/.test(line))).toEqual([]);
});

describe.each<Compression>(['gzip', 'zstd', 'none'])('%s layers', (compression) => {
  const large = layerLike(7_000_000, 3);
  const layer = tar(
    dir('d'),
    file('d/large', large),
    file('d/empty', ''),
    ...Array.from({ length: 300 }, (_, i) =>
      file(`d/file-${i}`, layerLike(100 + 37 * i, i), { mtime: `${1_600_000_000 + i}.123456789` }),
    ),
    gnuSparse('sparse', 9_000_000, [
      [4096, Buffer.alloc(512, 7)],
      [5_000_192, Buffer.alloc(1024, 8)],
    ]),
  );

  test('small files, files over many spans, and sparse ones', async () => {
    const second = tar(dir('d'), file('d/.wh.file-7', ''), file('d/file-8', 'replaced'));
    const image = writeImage([layer, second], { compression });
    const at = clip.path(`plain-${compression}`);
    const place = await clip.place('place');
    await clip.ok('unpack', '--image', image.reference, at);
    await clip.ok('mount', '--image', image.reference, '--at', place);
    expect(compareTrees(snapshotTree(place), snapshotTree(at)).filter((line) => !/nlink/.test(line))).toEqual([]);
    expect(sha256Of(readFileSync(join(at, 'd/large')))).toBe(sha256Of(large));
    await clip.ok('umount', place);
    image.remove();
  });
});

describe('through a registry', () => {
  let registry: TestRegistry;
  let proxy: RegistryProxy;
  const content = layerLike(60_000_000, 9);

  beforeAll(async () => {
    registry = await startRegistry();
    const image = writeImage([tar(file('large', content), file('second', layerLike(2_000_000, 4)))]);
    await registry.push(image.reference, 'app:v');
    image.remove();
    proxy = await startProxy({ upstream: registry.url });
  });
  afterAll(async () => {
    await proxy.stop();
    await registry.stop();
  });

  const layerRequests = (): (string | null)[] => {
    const blobs = proxy.requests.filter(({ method, path }) => method === 'GET' && path.includes('/blobs/'));
    return blobs.map(({ range }) => range).filter((range) => range !== null);
  };

  test('without an index, the registry sends each byte of a layer once', async () => {
    const at = clip.path('once');
    proxy.requests.length = 0;
    const { fetchedBytes } = await clip.json<{ fetchedBytes: number }>('unpack', '--image', `${proxy.host}/app:v`, at);
    const ranges = layerRequests();
    // The layer comes as one stream: nothing is asked for by range, or a second time.
    const { layers } = await clip.json<{ layers: { digest: string }[] }>('inspect', '--image', `${proxy.host}/app:v`);
    expect(ranges).toEqual([]);
    expect(proxy.requests.filter(({ path }) => path.endsWith(layers[0]!.digest)).map(({ method }) => method)).toEqual([
      'GET',
    ]);
    expect(fetchedBytes).toBeGreaterThan(8e6);
    expect(sha256Of(readFileSync(join(at, 'large')))).toBe(sha256Of(content));
    expect(readdirSync(clip.path('cache')).filter((name) => name.startsWith('.layer'))).toEqual([]);
    // With its index in the store, ranges are fetched as ever.
    await clip.ok('unpack', '--image', `${proxy.host}/app:v`, clip.path('twice'));
    expect(layerRequests()).not.toEqual([]);
    await clip.ok('archives', 'prune', '--to', '0');
  });

  test('a disk without room for the layer beside it: a note, and the layer is fetched again', async () => {
    const small = await clip.place('small');
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m,mode=0700', 'none', small]);
    try {
      const env = { CLIP_CACHE_DIR: small };
      const ran = await clip.run(['unpack', '--image', `${proxy.host}/app:v`, clip.path('noted')], { env });
      expect([ran.code, ran.stderr]).toEqual([
        0,
        expect.stringMatching(/note: layer .* ENOSPC.*: it is fetched again/),
      ]);
      expect(sha256Of(readFileSync(clip.path('noted/large')))).toBe(sha256Of(content));
    } finally {
      execFileSync('umount', [small]);
    }
  });

  test('an interrupted run goes on where it was', async () => {
    const archive = clip.path('app.clip');
    await clip.ok('index', '--image', `${proxy.host}/app:v`, '--out', archive);
    const at = clip.path('resumed');
    // The link is cut after the first stretches.
    proxy.fault = ({ range }) => (Number(/bytes=(\d+)/.exec(range ?? '')?.[1] ?? 0) > 5e6 ? { stallAfter: 0 } : null);
    let child: ChildProcess | undefined;
    const running = clip.run(['unpack', '--clip', archive, at], { onStart: (started) => (child = started) });
    const journal = (): string[] =>
      existsSync(`${at}.clip-unpack`) ? readFileSync(`${at}.clip-unpack`, 'utf8').split('\n') : [];
    const end = performance.now() + 30_000;
    while (journal().length < 3 && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, 20));
    child!.kill('SIGINT');
    const ran = await running;
    expect([ran.code, ran.stderr]).toEqual([
      130,
      `clipctl: interrupted\nclipctl: note: the same command goes on with ${at} where it was\n`,
    ]);
    proxy.fault = null;
    const { resumed, fetchedBytes } = await clip.json<{ resumed: boolean; fetchedBytes: number }>(
      'unpack',
      '--clip',
      archive,
      at,
    );
    const { layers } = await clip.json<{ layers: { size: number }[] }>('inspect', '--clip', archive);
    expect(layers[0]!.size).toBeGreaterThan(8e6);
    expect(resumed).toBe(true);
    expect(fetchedBytes).toBeLessThan(layers[0]!.size);
    expect(sha256Of(readFileSync(join(at, 'large')))).toBe(sha256Of(content));
    expect(existsSync(`${at}.clip-unpack`)).toBe(false);
  });
});

test('a directory that is not empty is refused, and keeps its mode', async () => {
  // `clipctl unpack IMAGE /etc` closed /etc to all users but root.
  const full = clip.path('open-and-full');
  mkdirSync(full, { mode: 0o755 });
  writeFileSync(join(full, 'x'), '');
  expect((await clip.run(['unpack', rich.reference, full])).code).toBe(EXIT_CODES.CONFLICT);
  expect(statSync(full).mode & 0o7777).toBe(0o755);
});

test('bad input: one line and the next step', async () => {
  const full = clip.path('full');
  mkdirSync(full);
  writeFileSync(join(full, 'x'), '');
  const cases: readonly (readonly [directory: string, why: RegExp, code: ErrorCode])[] = [
    [full, /is not empty\n.*new directory/, 'CONFLICT'],
    [clip.path('no/such/parent'), /the directory above .* does not exist/, 'NOT_FOUND'],
    [join(full, 'x'), /ENOTDIR|not a directory/, 'NOT_FOUND'],
  ];
  for (const [directory, why, code] of cases) {
    const ran = await clip.run(['unpack', '--image', rich.reference, directory]);
    expect([ran.code, ran.stdout, ran.stderr]).toEqual([EXIT_CODES[code], '', expect.stringMatching(why)]);
  }
  expect(readdirSync(full)).toEqual(['x']);
});

test('a layer that was altered is refused, whole spans at a time', async () => {
  const image = writeImage([tar(file('large', layerLike(5_000_000, 5)))]);
  const archive = clip.path('altered.clip');
  await clip.ok('index', '--image', image.reference, '--out', archive);
  const { layers } = await clip.json<{ layers: { digest: string }[] }>('inspect', '--clip', archive);
  const blob = image.layout.blobPath(layers[0]!.digest);
  const bytes = readFileSync(blob);
  bytes[bytes.length >> 1]! ^= 1;
  writeFileSync(blob, bytes);
  const ran = await clip.run(['unpack', '--clip', archive, clip.path('altered')]);
  expect([ran.code, ran.stderr]).toEqual([
    EXIT_CODES.DIGEST_MISMATCH,
    expect.stringContaining('are not those that were indexed'),
  ]);
  image.remove();
});
