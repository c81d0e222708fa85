import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl } from '../support/clipctl.js';
import { LayoutBuilder, MEDIA, sha256, type TestDescriptor } from '../support/layout.js';
import { run } from '../support/processes.js';
import { type RegistryProxy, startProxy } from '../support/proxy.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';

// Images with zstd layers, indexed, mounted and read. Needs root and /dev/fuse. Reads are asynchronous: the proxy that the
// mount reads through lives in this process.

const ZSTD_LAYER = 'application/vnd.oci.image.layer.v1.tar+zstd';
const FILES = 24;
const FILE_BYTES = 1 << 20;
/** Fewer compressed bytes than this went over the wire: for reading one file. */
const ONE_FILE = 6 * FILE_BYTES;

function zstd(data: Uint8Array, ...args: string[]): Buffer {
  return execFileSync('zstd', ['-q', '-c', '-1', ...args], { input: data, maxBuffer: 1 << 30 });
}

/** As zstd:chunked is laid out: many frames, then the table of contents in a skippable frame, and a footer. */
function chunked(tar: Buffer): Buffer {
  const frames: Buffer[] = [];
  for (let at = 0; at < tar.length; at += 150_000) frames.push(zstd(tar.subarray(at, at + 150_000)));
  const contents = Buffer.alloc(500_008, 'contents');
  contents.writeUInt32LE(0x184d2a50, 0);
  contents.writeUInt32LE(contents.length - 8, 4);
  const footer = Buffer.alloc(72, 0);
  footer.writeUInt32LE(0x184d2a50, 0);
  footer.writeUInt32LE(64, 4);
  return Buffer.concat([...frames, contents, footer]);
}

describe('zstd layers', () => {
  let clip: Clipctl;
  let registry: TestRegistry;
  let proxy: RegistryProxy;
  let layout: LayoutBuilder;
  let tar: Buffer;
  let tree = '';
  const hashes = new Map<string, string>();

  beforeAll(async () => {
    clip = await Clipctl.create();
    registry = await startRegistry();
    proxy = await startProxy({ upstream: registry.url });
    layout = new LayoutBuilder();
    tree = mkdtempSync(path.join(os.tmpdir(), 'clip-zstd-tree-'));
    mkdirSync(path.join(tree, 'files'));
    for (let i = 0; i < FILES; i++) {
      // Noise and text: about half of it is left when compressed.
      const content = Buffer.alloc(FILE_BYTES, `file ${i}, line after line\n`);
      const noise = createHash('shake256', { outputLength: FILE_BYTES / 2 })
        .update(`${i}`)
        .digest();
      noise.copy(content, FILE_BYTES / 4);
      writeFileSync(path.join(tree, 'files', `f${i}`), content);
      hashes.set(`files/f${i}`, sha256(content));
    }
    tar = execFileSync('tar', ['-C', tree, '--sort=name', '-cf', '-', 'files'], { maxBuffer: 1 << 30 });
  });
  afterAll(async () => {
    await clip.close();
    await proxy.stop();
    await registry.stop();
    layout.remove();
    rmSync(tree, { recursive: true, force: true });
  });

  async function push(name: string, blob: Buffer): Promise<void> {
    const layer: TestDescriptor = layout.blob(blob, ZSTD_LAYER);
    const config = layout.json(
      { os: 'linux', architecture: 'amd64', config: {}, rootfs: { type: 'layers', diff_ids: [sha256(tar)] } },
      MEDIA.ociConfig,
    );
    await registry.push(layout.tag(layout.manifest(config, [layer]), name), `z/${name}:1`);
  }

  /** Indexes (with diff IDs checked), mounts, reads one file and then all, in an order of their own. */
  async function check(name: string, kind: string): Promise<{ first: number; all: number }> {
    const archive = clip.path(`${name}.clip`);
    const image = `${proxy.host}/z/${name}:1`;
    const indexed = await clip.json<{ layers: { kind: string }[] }>(
      'index',
      '--image',
      image,
      '--out',
      archive,
      '--hashes',
    );
    expect(indexed.layers.map((layer) => layer.kind)).toEqual([kind]);
    const at = await clip.place(name);
    await clip.ok('mount', '--clip', archive, '--at', at, '--no-readahead');
    proxy.reset();
    const read = async (file: string): Promise<void> => {
      expect(sha256(await readFile(path.join(at, file))), file).toBe(hashes.get(file));
    };
    await read('files/f10'); // the third in the tar
    const first = proxy.blobTraffic().bytes;
    expect((await readdir(path.join(at, 'files'))).length).toBe(FILES);
    for (const file of [...hashes.keys()].reverse()) await read(file);
    const all = proxy.blobTraffic().bytes;
    await clip.ok('umount', at);
    return { first, all };
  }

  test('many frames and a table of contents: one file costs its frames, all files cost no table', async () => {
    const blob = chunked(tar);
    await push('chunked', blob);
    const { first, all } = await check('chunked', 'zstd');
    expect(first).toBeLessThan(ONE_FILE);
    expect(all).toBeLessThan(blob.length - 490_000);
  });

  test('one frame: read in order, as far as needed, and once', async () => {
    const blob = zstd(tar);
    await push('single', blob);
    const { first, all } = await check('single', 'zstd-stream');
    expect(first).toBeLessThan(blob.length / 2);
    expect(all).toBeLessThanOrEqual(blob.length);
  });

  test('one frame with a 128 MiB window', async () => {
    await push('long', zstd(tar, '--long=27', `--stream-size=${tar.length}`));
    await check('long', 'zstd-stream');
  });

  test('layers of skopeo’s zstd writer', async () => {
    await push('plain', zstd(tar));
    const to = path.join(tree, 'recompressed');
    const compress = ['--dest-compress', '--dest-compress-format', 'zstd', '--dest-compress-level', '3'];
    const from = path.join(tree, 'unpacked');
    await run('skopeo', [
      '--insecure-policy',
      'copy',
      '-q',
      '--dest-decompress',
      `oci:${layout.directory}:plain`,
      `dir:${from}`,
    ]);
    await run('skopeo', ['--insecure-policy', 'copy', '-q', ...compress, `dir:${from}`, `oci:${to}:x`]);
    await registry.push(`oci:${to}:x`, 'z/skopeo:1');
    const archive = clip.path('skopeo.clip');
    const image = `${proxy.host}/z/skopeo:1`;
    const indexed = await clip.json<{ layers: { kind: string }[]; image: { layers: { mediaType: string }[] } }>(
      'index',
      '--image',
      image,
      '--out',
      archive,
      '--hashes',
    );
    expect(indexed.layers[0]!.kind).toMatch(/^zstd/);
    const at = await clip.place('skopeo');
    await clip.ok('mount', '--clip', archive, '--at', at);
    for (const [file, hash] of hashes) expect(sha256(await readFile(path.join(at, file)))).toBe(hash);
    await clip.ok('umount', at);
  });

  test('a damaged layer is refused while indexing, with the place', async () => {
    const blob = zstd(tar, '--no-check');
    blob[blob.length - 100_000]! ^= 1;
    await push('damaged', blob.subarray(0, blob.length - 50_000));
    const ran = await clip.run(['index', '--image', `${proxy.host}/z/damaged:1`, '--out', clip.path('no.clip')]);
    expect(ran.code).toBe(EXIT_CODES.BAD_FORMAT);
    expect(ran.stderr).toMatch(/zstd stream at byte \d+/);
  });
});
