import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import {
  createFromOCIImage,
  type IndexResult,
  LayerIndexDirectory,
  type LayerProgress,
} from '../../src/index/index.js';
import { layerTag, openArtifacts } from '../../src/oci/index.js';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { type Compression, type TestImage, writeImage } from '../support/images.js';
import { sha256 } from '../support/layout.js';
import { type RegistryProxy, startProxy } from '../support/proxy.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { dir, file, hardLink, symlink, tar, whiteout } from '../support/tar.js';
import { CASES } from './tree-cases.js';

const directory = mkdtempSync(join(tmpdir(), 'clip-layers-'));
const kept = join(directory, 'kept');
const out = join(directory, 'out.clip');
afterAll(() => rmSync(directory, { recursive: true, force: true }));
beforeEach(() => rmSync(kept, { recursive: true, force: true }));

interface Made {
  readonly bytes: Buffer;
  readonly result: IndexResult;
  /** Digests of layers that were read, and of those that were known. */
  readonly read: string[];
  readonly known: string[];
}

async function index(imageRef: string, more: Partial<Parameters<typeof createFromOCIImage>[0]> = {}): Promise<Made> {
  const [read, known]: [string[], string[]] = [[], []];
  const onProgress = (p: LayerProgress): void => {
    if (p.stage !== 'layers') return;
    if (p.known) known.push(p.digest);
    else if (p.done === 0) read.push(p.digest);
  };
  const result = await createFromOCIImage({ imageRef, outputPath: out, onProgress, ...more });
  return { bytes: readFileSync(out), result, read, known };
}

const layerDigests = (made: Made): string[] => made.result.image.layers.map(({ digest }) => digest);

describe('an archive that is put together from indexes of layers is the one of a fresh index, byte for byte', () => {
  test.each(CASES.map((one) => [one.name, one.layers] as const))('%s', async (_, layers) => {
    const image = writeImage(layers);
    try {
      const fresh = await index(image.reference);
      const first = await index(image.reference, { layerIndexDirectory: kept });
      const again = await index(image.reference, { layerIndexDirectory: kept });
      expect(first.bytes.equals(fresh.bytes)).toBe(true);
      expect(again).toMatchObject({ read: [], known: expect.arrayContaining(layerDigests(fresh)) });
      expect(again.bytes.equals(fresh.bytes)).toBe(true);
      expect(again.result.warnings).toEqual(fresh.result.warnings);
      // One layer unknown, the others known.
      const last = layerDigests(fresh).at(-1)!;
      rmSync(join(kept, `${last.replace(':', '-')}.1.clip`));
      const partly = await index(image.reference, { layerIndexDirectory: kept });
      expect(partly.read).toEqual([last]);
      expect(partly.bytes.equals(fresh.bytes)).toBe(true);
    } finally {
      image.remove();
    }
  });

  const script = '#!/usr/bin/env python3\nimport os\n';
  const LAYERS = [
    tar(
      dir('usr/bin'),
      file('usr/bin/python3', readFileSync(process.execPath).subarray(0, 3_000_000), { mode: 0o755 }),
      file('usr/bin/env', '#!/nowhere\n', { mode: 0o755 }),
      file('lib/os.py', 'import stat\n'),
      file('lib/stat.py', 'import os\n'),
      file('data', layerLike(5_000_000)),
    ),
    tar(hardLink('linked', 'data'), symlink('os.py', 'lib/os.py'), whiteout('lib/stat.py'), file('run.py', script)),
    tar(dir('lib'), file('lib/.wh..wh..opq', ''), file('lib/new', layerLike(2_000_000, 3)), file('data', 'a file now')),
  ];

  test.each<[string, Compression | readonly Compression[]]>([
    ['gzip', 'gzip'],
    ['zstd', 'zstd'],
    ['plain tar', 'none'],
    ['mixed', ['gzip', 'none', 'zstd']],
  ])('a program, its libraries, scripts and modules; %s', async (_, compression) => {
    const config = { Entrypoint: ['/run.py'], Env: ['PATH=/usr/bin'] };
    const image = writeImage(LAYERS, { compression, config });
    try {
      for (const hashes of [false, true]) {
        rmSync(kept, { recursive: true, force: true });
        for (const checkpointMiB of [1, 3]) {
          const how = { hashes, checkpointMiB };
          const fresh = await index(image.reference, how);
          await index(image.reference, { ...how, layerIndexDirectory: kept });
          const again = await index(image.reference, { ...how, layerIndexDirectory: kept });
          expect(again.read).toEqual([]);
          expect(again.bytes.equals(fresh.bytes)).toBe(true);
        }
      }
    } finally {
      image.remove();
    }
  });

  test('hashes are asked of an index that has none: the layer is read again; the other way round it is not', async () => {
    const image = writeImage(LAYERS);
    try {
      const [plain, hashed] = [await index(image.reference), await index(image.reference, { hashes: true })];
      await index(image.reference, { layerIndexDirectory: kept });
      const more = await index(image.reference, { layerIndexDirectory: kept, hashes: true });
      expect(more.read.length).toBe(3);
      expect(more.bytes.equals(hashed.bytes)).toBe(true);
      const less = await index(image.reference, { layerIndexDirectory: kept });
      expect(less.read).toEqual([]);
      expect(less.bytes.equals(plain.bytes)).toBe(true);
    } finally {
      image.remove();
    }
  });

  test('a config that belongs to another layer is refused, whether the layer is known or not', async () => {
    const image = writeImage([LAYERS[2]!]);
    const { layout } = image;
    const blob = layout.blob(gzipSync(LAYERS[2]!), 'application/vnd.oci.image.layer.v1.tar+gzip');
    const rootfs = { type: 'layers', diff_ids: [sha256(LAYERS[0]!)] };
    const architecture = process.arch === 'x64' ? 'amd64' : process.arch;
    const config = layout.json(
      { os: 'linux', architecture, config: {}, rootfs },
      'application/vnd.oci.image.config.v1+json',
    );
    const wrong = layout.tag(layout.manifest(config, [blob]), 'wrong');
    try {
      const how = { hashes: true, layerIndexDirectory: kept };
      await index(image.reference, how);
      await expect(index(wrong, how)).rejects.toMatchObject({ code: 'DIGEST_MISMATCH' });
    } finally {
      image.remove();
    }
  });
});

describe('an index that is kept', () => {
  let image: TestImage;
  let fresh: Made;
  beforeAll(async () => {
    image = writeImage([tar(file('a', layerLike(3_000_000))), tar(file('b', 'second'))]);
    fresh = await index(image.reference);
  });
  afterAll(() => image.remove());
  const pathOf = (digest: string): string => join(kept, `${digest.replace(':', '-')}.1.clip`);

  // Attack: bytes of the cache directory change.
  test('is read again when any part of it is damaged, and replaced', async () => {
    const [base] = layerDigests(fresh) as [string];
    await index(image.reference, { layerIndexDirectory: kept });
    const good = readFileSync(pathOf(base));
    const step = Math.ceil(good.length / 12);
    for (let at = 0; at < good.length; at += step) {
      const bad = Buffer.from(good);
      bad[at]! ^= 0x10;
      writeFileSync(pathOf(base), bad);
      const made = await index(image.reference, { layerIndexDirectory: kept });
      expect(made.read).toEqual([base]);
      expect(made.bytes.equals(fresh.bytes)).toBe(true);
      expect(made.result.warnings).toEqual([
        expect.stringMatching(/is read again, because its index cannot be used: /),
      ]);
      expect(readFileSync(pathOf(base)).equals(good)).toBe(true);
    }
    writeFileSync(pathOf(base), good.subarray(0, good.length / 2));
    expect((await index(image.reference, { layerIndexDirectory: kept })).bytes.equals(fresh.bytes)).toBe(true);
  });

  test('of another layer under its name is refused', async () => {
    const [base, second] = layerDigests(fresh) as [string, string];
    await index(image.reference, { layerIndexDirectory: kept });
    renameSync(pathOf(second), pathOf(base));
    const made = await index(image.reference, { layerIndexDirectory: kept });
    expect(made.bytes.equals(fresh.bytes)).toBe(true);
    expect(made.result.warnings).toEqual([expect.stringMatching(/the index of layer .* expected/)]);
  });

  test('makes room for others: the longest unused go', async () => {
    const store = new LayerIndexDirectory(kept, 250);
    const digests = ['a', 'b', 'c'].map((c) => `sha256:${c.repeat(64)}`);
    for (const [i, digest] of digests.entries()) {
      await store.write(digest, 1, [Buffer.alloc(100)]);
      utimesSync(pathOf(digest), 1000 + i, 1000);
      if (i === 1) store.read(digests[0]!, 1); // now the last used
    }
    expect(digests.map((digest) => existsSync(pathOf(digest)))).toEqual([true, false, true]);
    expect(store.settingsOf(digests[0]!)).toEqual([1]);
    expect(store.prune(0)).toBe(200);
    expect(readdirSync(kept)).toEqual([]);
  });

  test('is not written to a directory that others may write to, nor to one that cannot be made: the image is indexed', async () => {
    mkdirSync(kept);
    chmodSync(kept, 0o777);
    const made = await index(image.reference, { layerIndexDirectory: kept });
    expect(made.bytes.equals(fresh.bytes)).toBe(true);
    expect(made.result.warnings).toEqual([expect.stringMatching(/other users may write to/)]);
    expect(readdirSync(kept)).toEqual([]);
    writeFileSync(join(directory, 'a-file'), '');
    const other = await index(image.reference, { layerIndexDirectory: join(directory, 'a-file/below') });
    expect(other.bytes.equals(fresh.bytes)).toBe(true);
    expect(other.result.warnings.length).toBe(1);
  });
});

describe('two images in a registry that share all but one small layer', () => {
  let registry: TestRegistry;
  let proxy: RegistryProxy;
  let images: [TestImage, TestImage];
  const shared = [
    tar(dir('usr'), file('usr/a', layerLike(4_000_000))),
    tar(file('usr/b', layerLike(1_000_000, 2)), file('run', '#!/usr/a -x\n', { mode: 0o755 })),
  ];
  const config = { Entrypoint: ['/run'] };
  beforeAll(async () => {
    registry = await startRegistry();
    proxy = await startProxy({ upstream: registry.url });
    images = [
      writeImage([...shared, tar(file('own', 'first'))], { config }),
      writeImage([...shared, tar(file('own', 'second'), whiteout('usr/b'))], { config }),
    ];
    for (const [i, image] of images.entries()) await registry.push(image.reference, `team/app:${i + 1}`);
  });
  afterAll(async () => {
    await proxy?.stop();
    await registry?.stop();
    for (const image of images ?? []) image.remove();
  });

  const blobs = (digests: readonly string[]): string[] =>
    proxy.requests.filter(({ path }) => digests.some((digest) => path.includes(`/blobs/${digest}`))).map((r) => r.path);

  test('on one machine the second is made without a request for a shared layer', async () => {
    const clip = await Clipctl.create();
    try {
      const [one, two, again] = ['one', 'two', 'again'].map((name) => clip.path(`${name}.clip`)) as [
        string,
        string,
        string,
      ];
      await clip.ok('index', '--image', `${proxy.host}/team/app:1`, '--out', one);
      proxy.reset();
      const made = (await clip.json('index', '--image', `${proxy.host}/team/app:2`, '--out', two)) as {
        layers: { digest: string; known: boolean }[];
        warnings: string[];
      };
      expect(made.layers.map(({ known }) => known)).toEqual([true, true, false]);
      const digests = made.layers.map(({ digest }) => digest);
      expect(made.warnings).toEqual([]);
      expect(blobs(digests.slice(0, 2))).toEqual([]);
      expect(blobs(digests.slice(2)).length).toBe(1);
      proxy.reset();
      await clip.ok('index', '--fresh', '--image', `${proxy.host}/team/app:2`, '--out', again);
      expect(blobs(digests).length).toBe(3);
      expect(readFileSync(again).equals(readFileSync(two))).toBe(true);
    } finally {
      await clip.close();
    }
  });

  test('a node with nothing but a reference to the second finds the shared layers’ indexes in the registry', async () => {
    const [maker, node] = [await Clipctl.create(), await Clipctl.create()];
    try {
      const one = maker.path('one.clip');
      const pushed = await maker.json('index', '--image', `${proxy.host}/team/app:1`, '--out', one, '--push');
      expect(pushed).toMatchObject({ pushed: { changed: true, layerIndexes: { layers: 3, changed: 3 } } });
      // The second time nothing changes, and `push` does what `index --push` does.
      proxy.reset();
      expect(await maker.json('push', '--layers', '--clip', one)).toMatchObject({
        changed: false,
        layerIndexes: { layers: 3, changed: 0 },
      });
      expect(proxy.requests.every(({ method }) => method === 'GET' || method === 'HEAD')).toBe(true);

      proxy.reset();
      const two = node.path('two.clip');
      const made = (await node.json('index', '--image', `${proxy.host}/team/app:2`, '--out', two)) as {
        layers: { digest: string }[];
        warnings: string[];
      };
      const digests = made.layers.map(({ digest }) => digest);
      expect(made.warnings).toEqual([]);
      expect(blobs(digests.slice(0, 2))).toEqual([]);
      await maker.ok('index', '--fresh', '--image', `${proxy.host}/team/app:2`, '--out', maker.path('two.clip'));
      expect(readFileSync(maker.path('two.clip')).equals(readFileSync(two))).toBe(true);

      // The way of `mount`, `run` and the others that take an image.
      rmSync(node.path('cache'), { recursive: true, force: true });
      proxy.reset();
      expect(await node.ok('ls', '--image', `${proxy.host}/team/app:2`)).toMatchObject({
        stdout: expect.stringMatching(/own/),
      });
      expect(blobs(digests.slice(0, 2))).toEqual([]);
      expect(blobs(digests.slice(2)).length).toBe(1);
    } finally {
      await node.close();
      await maker.close();
    }
  });

  // Attack: whoever may push to one repository pushes a forged index of a layer that others have, too.
  test('an index from one repository says nothing of the same layer in another', async () => {
    const clip = await Clipctl.create();
    try {
      await registry.push(images[0].reference, 'evil/app:1');
      await registry.push(images[0].reference, 'good/app:1');
      const forger = join(directory, 'forger');
      const forged = writeImage([tar(file('forged', layerLike(4_000_000)))]);
      const { result } = await index(forged.reference, { layerIndexDirectory: forger });
      forged.remove();
      const honest = await index(images[0].reference);
      const base = layerDigests(honest)[0]!;
      const artifacts = await openArtifacts(
        { registry: registry.host, repository: 'evil/app' },
        { credentials: null },
        { push: true },
      );
      const stolen = readFileSync(join(forger, `${result.layers[0]!.digest.replace(':', '-')}.1.clip`));
      await artifacts.pushLayer(stolen, layerTag(base, 1));
      await artifacts.close();

      // One of another layer is refused.
      const ls = await clip.run(['ls', '-R', '--image', `${registry.host}/evil/app:1`]);
      expect(ls).toMatchObject({
        code: 0,
        stdout: expect.stringMatching(/own/),
        stderr: expect.stringMatching(/is read again/),
      });
      expect(ls.stdout).not.toMatch(/forged/);
      // What came from a registry is not kept for other repositories.
      const cache = clip.path('cache/layers');
      const before = new Map(readdirSync(cache).map((name) => [name, statSync(join(cache, name)).ino]));
      await clip.ok('index', '--image', `${registry.host}/team/app:1`, '--out', clip.path('a.clip'));
      rmSync(cache, { recursive: true });
      await clip.ok('index', '--image', `${proxy.host}/team/app:1`, '--out', clip.path('b.clip'));
      expect(existsSync(cache) ? readdirSync(cache) : []).toEqual([]);
      expect(before.size).toBe(3);
    } finally {
      await clip.close();
    }
  });
});
