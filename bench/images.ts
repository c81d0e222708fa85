import { createReadStream, createWriteStream, existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { createGunzip } from 'node:zlib';
import { findNode, packImage, stageBase } from '../demo/pack.js';
import { startRegistry, type TestRegistry } from '../test/support/registry.js';
import { dir, file, tar } from '../test/support/tar.js';
import { type BenchImage, run } from './support.js';

/** Both images are made once and kept: mmdebstrap alone takes minutes and needs a Debian mirror. */
const cacheDir = process.env.CLIP_BENCH_DIR ?? '/var/tmp/clip-bench';
const root = fileURLToPath(new URL('../..', import.meta.url));

export interface Host {
  log(line: string): void;
  defer(undo: () => Promise<void> | void): void;
}

/** Where an image is kept. */
export function imagePath(name: string): string {
  return path.join(cacheDir, name);
}

export async function debianPackages(...packages: string[]): Promise<void> {
  await run(path.join(root, 'scripts/debian-packages.sh'), packages);
}

/** Makes `target` by `make(temporary)` and a rename, unless it exists: an interrupted run leaves nothing half made. */
export async function kept(target: string, make: (temporary: string) => Promise<void>): Promise<string> {
  if (existsSync(target)) return target;
  await mkdir(path.dirname(target), { recursive: true });
  const temporary = `${target}.${process.pid}.new`;
  try {
    await make(temporary);
    await rename(temporary, target);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  return target;
}

async function pythonRootfs(host: Host): Promise<string> {
  return await kept(path.join(cacheDir, 'rootfs.tar'), async (temporary) => {
    host.log('making the Python image with mmdebstrap (once; some minutes)');
    await debianPackages('mmdebstrap');
    const include = '--include=python3,python3-numpy,python3-scipy,python3-pandas';
    await run('mmdebstrap', ['--variant=minbase', include, '--format=tar', 'bookworm', temporary]);
  });
}

/** Bookworm's Python with numpy, scipy and pandas: one gzip layer of about 304 MB and 39,500 entries. */
export async function pythonImage(host: Host): Promise<BenchImage> {
  const layout = path.join(cacheDir, 'oci');
  const tar = await pythonRootfs(host);
  await kept(layout, async (temporary) => {
    host.log('adding the root file system as one layer with umoci');
    await debianPackages('umoci');
    await run('umoci', ['init', '--layout', temporary]);
    await run('umoci', ['new', '--image', `${temporary}:py`]);
    await run('umoci', ['raw', 'add-layer', '--image', `${temporary}:py`, tar]);
  });
  return await serve(host, layout, 'py', [tar]);
}

/** The tree of the Python image, unpacked. */
export async function pythonRoot(host: Host): Promise<string> {
  const tar = await pythonRootfs(host);
  return await kept(path.join(cacheDir, 'rootfs'), async (temporary) => {
    await mkdir(temporary);
    await run('tar', ['-C', temporary, '-xpf', tar, '--numeric-owner']);
  });
}

/** Copies of npm's own dependencies: a monorepo whose packages do not share theirs. */
const WORKSPACES = 12;

/** A large node_modules tree in four layers: Node, the first workspaces, more of them, and one that deletes and replaces. */
export async function nodeImage(host: Host): Promise<BenchImage> {
  const layout = path.join(cacheDir, 'node-oci');
  await kept(layout, async (temporary) => {
    host.log('making the node_modules image from what this machine has (once)');
    const stage = await mkdtemp(path.join(os.tmpdir(), 'clip-bench-stage-'));
    try {
      const parts = findNode();
      const layer = (name: string): string => path.join(stage, name);
      const workspace = (name: string, i: number): string => path.join(layer(name), `app/packages/p${i}/node_modules`);
      const fill = async (name: string, i: number): Promise<void> =>
        await cp(parts.npm.directory, workspace(name, i), { recursive: true, verbatimSymlinks: true });
      for (const name of ['base', 'first', 'second', 'last']) await mkdir(layer(name));
      await stageBase(layer('base'), parts);
      for (let i = 0; i < WORKSPACES; i++) await fill(i < WORKSPACES / 2 ? 'first' : 'second', i);
      await cp(path.join(root, 'node_modules'), path.join(layer('second'), 'app/node_modules'), {
        recursive: true,
        verbatimSymlinks: true,
      });
      // p0 is removed, p1 replaced whole, a file of p2 replaced.
      await mkdir(path.join(layer('last'), 'app/packages'), { recursive: true });
      await writeFile(path.join(layer('last'), 'app/packages/.wh.p0'), '');
      await fill('last', 1);
      await writeFile(path.join(layer('last'), 'app/packages/p1/node_modules/.wh..wh..opq'), '');
      await mkdir(workspace('last', 2), { recursive: true });
      await writeFile(path.join(workspace('last', 2), 'package.json'), '{}\n');
      const sources = ['base', 'first', 'second', 'last'].map((name) => ({ directory: layer(name), comment: name }));
      await packImage(temporary, 'node', sources, { Env: ['PATH=/usr/bin:/bin'], Entrypoint: ['node'] });
    } finally {
      await rm(stage, { recursive: true, force: true });
    }
  });
  const blobs = await layerFiles(layout, 'node');
  const tars = await Promise.all(
    blobs.map((blob, i) =>
      kept(path.join(cacheDir, `node-layer-${i}.tar`), (temporary) =>
        pipeline(createReadStream(blob), createGunzip(), createWriteStream(temporary)),
      ),
    ),
  );
  return await serve(host, layout, 'node', tars);
}

export const BIG_FILE = 'big.bin';
export const BIG_BYTES = 500_000_000;

/** One gzip layer with one file of 500 MB: the beginning of the Python image's tar, with programs and text. */
export async function bigImage(host: Host): Promise<BenchImage> {
  const layout = path.join(cacheDir, 'big-oci');
  const source = await pythonRootfs(host);
  await kept(layout, async (temporary) => {
    host.log('packing a 500 MB file (once)');
    const stage = await mkdtemp(path.join(os.tmpdir(), 'clip-bench-stage-'));
    try {
      await pipeline(createReadStream(source, { end: BIG_BYTES - 1 }), createWriteStream(path.join(stage, BIG_FILE)));
      await packImage(temporary, 'big', [{ directory: stage, comment: 'one file' }], {});
    } finally {
      await rm(stage, { recursive: true, force: true });
    }
  });
  return await serve(host, layout, 'big', []);
}

export const MANY_FILES = 1_000_000;
const FILES_PER_DIRECTORY = 1000;

/** An image layout, tag "many": one gzip layer of a million small files. */
export async function manyFilesLayout(host: Pick<Host, 'log'>): Promise<string> {
  return await kept(path.join(cacheDir, 'many-oci'), async (temporary) => {
    host.log('packing a million files (once)');
    const tarPath = `${temporary}.tar`;
    try {
      await pipeline(Readable.from(manyFiles()), createWriteStream(tarPath));
      await debianPackages('umoci');
      await run('umoci', ['init', '--layout', temporary]);
      await run('umoci', ['new', '--image', `${temporary}:many`]);
      await run('umoci', ['raw', 'add-layer', '--image', `${temporary}:many`, tarPath]);
    } finally {
      await rm(tarPath, { force: true });
    }
  });
}

function* manyFiles(): Generator<Uint8Array> {
  for (let i = 0; i < MANY_FILES; i += FILES_PER_DIRECTORY) {
    const directory = `d${i / FILES_PER_DIRECTORY}`;
    const parts = [dir(directory)];
    for (let j = 0; j < FILES_PER_DIRECTORY; j++) {
      parts.push(file(`${directory}/file-${j}`, `${i + j}`, { uid: j % 7, mtime: 1.7e9 + (j % 11) }));
    }
    yield Buffer.concat(parts);
  }
  yield tar(); // its end
}

interface Descriptor {
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
}

async function readBlob<T>(layout: string, digest: string): Promise<T> {
  return JSON.parse(await readFile(blobPath(layout, digest), 'utf8')) as T;
}

function blobPath(layout: string, digest: string): string {
  return path.join(layout, 'blobs', ...digest.split(':'));
}

async function layerFiles(layout: string, tag: string): Promise<string[]> {
  const index = JSON.parse(await readFile(path.join(layout, 'index.json'), 'utf8')) as { manifests: Descriptor[] };
  const entry = index.manifests.find((m) => m.annotations?.['org.opencontainers.image.ref.name'] === tag);
  if (!entry) throw new Error(`${layout} has no tag ${tag}: delete the directory, and it is made anew`);
  const manifest = await readBlob<{ layers: Descriptor[] }>(layout, entry.digest);
  return manifest.layers.map((layer) => blobPath(layout, layer.digest));
}

export async function serve(host: Host, layout: string, tag: string, tars: readonly string[]): Promise<BenchImage> {
  await debianPackages('skopeo', 'docker-registry');
  const server = await registry(host);
  const layers = await layerFiles(layout, tag);
  await server.push(`oci:${layout}:${tag}`, `${tag}:latest`);
  const reference = `${server.host}/${tag}:latest`;
  const sizes = await Promise.all(layers.map((file) => stat(file)));
  return { reference, layout, layers, tars, compressedBytes: sizes.reduce((sum, s) => sum + s.size, 0) };
}

let running: Promise<TestRegistry> | null = null;

/** Debian's docker-registry on a free loopback port: one for all images. */
async function registry(host: Host): Promise<TestRegistry> {
  running ??= startRegistry().then((started) => {
    host.defer(() => started.stop());
    return started;
  });
  return await running;
}
