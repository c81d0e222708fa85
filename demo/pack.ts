import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream, existsSync, realpathSync } from 'node:fs';
import { chmod, copyFile, cp, mkdir, readdir, rename, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';

/** A future layer: a directory with the contents of the layer's tar (whiteouts are its `.wh.` files). */
export interface LayerSource {
  readonly directory: string;
  readonly comment: string;
}

export interface PackedLayer {
  readonly digest: string;
  readonly diffId: string;
  readonly size: number;
  readonly uncompressedSize: number;
}

export interface PackedImage {
  readonly layers: readonly PackedLayer[];
  readonly compressedBytes: number;
}

/** The `config` object of an OCI image configuration. */
export interface RunConfig {
  readonly Env?: readonly string[];
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly WorkingDir?: string;
}

/** Packs directories as gzip layers into an OCI image layout at `layout`, tagged `tag`. Needs only GNU tar. */
export async function packImage(
  layout: string,
  tag: string,
  sources: readonly LayerSource[],
  config: RunConfig,
  signal?: AbortSignal,
): Promise<PackedImage> {
  const blobs = path.join(layout, 'blobs', 'sha256');
  await mkdir(blobs, { recursive: true });
  // zlib runs in libuv's pool: the layers are compressed side by side.
  const layers = await Promise.all(sources.map((source, i) => packLayer(source.directory, blobs, i, signal)));
  const json = async (value: unknown): Promise<{ digest: string; size: number }> => {
    const bytes = Buffer.from(JSON.stringify(value));
    const hex = createHash('sha256').update(bytes).digest('hex');
    await writeFile(path.join(blobs, hex), bytes);
    return { digest: `sha256:${hex}`, size: bytes.length };
  };
  const platform = { architecture: process.arch === 'x64' ? 'amd64' : process.arch, os: 'linux' };
  const configBlob = await json({
    ...platform,
    config,
    rootfs: { type: 'layers', diff_ids: layers.map((l) => l.diffId) },
    history: sources.map((s) => ({ created_by: s.comment })),
  });
  const manifest = await json({
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...configBlob },
    layers: layers.map(({ digest, size }) => ({
      mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
      digest,
      size,
    })),
  });
  await writeFile(path.join(layout, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
  const descriptor = {
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    ...manifest,
    platform,
    annotations: { 'org.opencontainers.image.ref.name': tag },
  };
  await writeFile(
    path.join(layout, 'index.json'),
    JSON.stringify({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests: [descriptor] }),
  );
  return { layers, compressedBytes: layers.reduce((sum, l) => sum + l.size, 0) };
}

async function packLayer(directory: string, blobs: string, i: number, signal?: AbortSignal): Promise<PackedLayer> {
  const args = ['--format=pax', '--sort=name', '--numeric-owner', '--owner=0', '--group=0', '-C', directory, '-c', '.'];
  const tar = spawn('tar', args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let complaint = '';
  tar.stderr.on('data', (chunk: Buffer) => {
    complaint += chunk.toString();
  });
  const ended = new Promise<void>((resolve, reject) => {
    tar.once('error', (error) => reject(new Error(`tar: ${error.message}`)));
    tar.once('close', (code) => (code === 0 ? resolve() : reject(new Error(`tar: exit ${code}: ${complaint.trim()}`))));
  });
  const raw = new Digester();
  const packed = new Digester();
  const temporary = path.join(blobs, `.layer-${i}`);
  try {
    await Promise.all([
      ended,
      pipeline(tar.stdout, raw, createGzip({ level: 6 }), packed, createWriteStream(temporary), { signal }),
    ]);
  } finally {
    tar.kill('SIGKILL'); // without effect if it has ended
  }
  const hex = packed.hex();
  await rename(temporary, path.join(blobs, hex));
  return {
    digest: `sha256:${hex}`,
    diffId: `sha256:${raw.hex()}`,
    size: packed.bytes,
    uncompressedSize: raw.bytes,
  };
}

/** Passes bytes on, counting and hashing them. */
class Digester extends Transform {
  readonly #hash = createHash('sha256');
  bytes = 0;

  override _transform(chunk: Buffer, _encoding: string, done: (error: null, data: Buffer) => void): void {
    this.#hash.update(chunk);
    this.bytes += chunk.length;
    done(null, chunk);
  }

  hex(): string {
    return this.#hash.digest('hex');
  }
}

/** The parts of this machine's Node, and their places in the image. */
export interface NodeParts {
  /** The program itself. */
  readonly node: string;
  /** The shared objects it runs with, its program interpreter (ld.so) among them: the ones that this process has mapped. */
  readonly libraries: readonly string[];
  /** The directory to copy, and npm's command line within it. */
  readonly npm: { readonly directory: string; readonly cli: string };
}

export function findNode(): NodeParts {
  const report = process.report.getReport() as { sharedObjects?: unknown };
  const objects = Array.isArray(report.sharedObjects) ? report.sharedObjects : [];
  const libraries = objects.filter(
    (o): o is string => typeof o === 'string' && /\.so(\.\d+)*$/.test(o) && existsSync(o),
  );
  const candidates = [
    process.env.npm_execpath,
    path.resolve(process.execPath, '../../lib/node_modules/npm/bin/npm-cli.js'),
    path.resolve(process.execPath, '../../share/nodejs/npm/bin/npm-cli.js'),
  ];
  const found = candidates.find((c) => c?.endsWith('npm-cli.js') && existsSync(c));
  if (!found) throw new Error('cannot find npm: start the demo with "npm run demo"');
  const cli = realpathSync(found);
  const own = path.resolve(cli, '../..');
  // Debian's npm keeps its dependencies beside itself instead of inside.
  const directory = existsSync(path.join(own, 'node_modules')) ? own : path.dirname(own);
  return { node: realpathSync(process.execPath), libraries, npm: { directory, cli: path.relative(directory, cli) } };
}

/** Base layer: node, the libraries it needs, a shell, env, and documentation that the next layer removes. */
export async function stageBase(root: string, parts: NodeParts): Promise<void> {
  for (const d of ['proc', 'dev', 'root', 'etc', 'usr/bin', 'bin', 'usr/share/doc/node']) {
    await mkdir(path.join(root, d), { recursive: true });
  }
  await mkdir(path.join(root, 'tmp'));
  await chmod(path.join(root, 'tmp'), 0o1777);
  await copyFile(parts.node, path.join(root, 'usr/bin/node'));
  for (const library of parts.libraries) {
    const to = path.join(root, library);
    await mkdir(path.dirname(to), { recursive: true });
    await copyFile(realpathSync(library), to);
  }
  for (const tool of ['/bin/sh', '/usr/bin/env']) {
    if (existsSync(tool)) await copyFile(realpathSync(tool), path.join(root, tool));
  }
  await writeFile(path.join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  await writeFile(path.join(root, 'usr/share/doc/node/README'), 'Removed by a whiteout in the next layer.\n');
}

export const NPM_HOME = 'usr/lib/node_modules/npm';

/** Second layer: npm with everything below it, and the whiteout of the base layer's documentation. */
export async function stageNpm(root: string, parts: NodeParts): Promise<void> {
  const home = path.join(root, NPM_HOME);
  await mkdir(path.dirname(home), { recursive: true });
  await cp(parts.npm.directory, home, { recursive: true, verbatimSymlinks: true });
  await mkdir(path.join(root, 'usr/bin'));
  await symlink(path.join('..', '..', NPM_HOME, parts.npm.cli), path.join(root, 'usr/bin/npm'));
  await mkdir(path.join(root, 'usr/share/doc'), { recursive: true });
  await writeFile(path.join(root, 'usr/share/doc/.wh.node'), '');
}

/** Third layer: an application, and an opaque directory in place of npm's manual pages. */
export async function stageApp(root: string): Promise<void> {
  await mkdir(path.join(root, 'app'), { recursive: true });
  await writeFile(
    path.join(root, 'app/hello.mjs'),
    "console.log('hello out of a lazy mount, node ' + process.version);\n",
  );
  const man = path.join(root, NPM_HOME, 'man');
  await mkdir(man, { recursive: true });
  await writeFile(path.join(man, '.wh..wh..opq'), '');
}

/** Counts the entries below a directory. */
export async function countEntries(directory: string): Promise<number> {
  let entries = 0;
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    entries += 1 + (entry.isDirectory() ? await countEntries(path.join(directory, entry.name)) : 0);
  }
  return entries;
}

/** SHA-256 of a file's content, for comparing files of the mount with files of the image. */
export async function sha256File(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}
