import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { ClipError, FormatError } from '../../src/bytes/index.js';
import { ArchiveFile } from '../../src/check/index.js';
import { ErofsReader, InodeView } from '../../src/erofs/index.js';
import { type CreateFromOCIImageOptions, createFromOCIImage } from '../../src/index/index.js';
import { checkLayer } from '../support/check-archive.js';
import { layerLike } from '../support/gzip.js';
import { compressLayer } from '../support/images.js';
import { LayoutBuilder, MEDIA, sha256 } from '../support/layout.js';
import { dir, file, paxSparse, symlink, tar, whiteout } from '../support/tar.js';

// The whole pipeline, threads included, from an image layout to an archive file.

const directory = mkdtempSync(join(tmpdir(), 'clip-index-'));
const out = join(directory, 'out.clip');
let layout = new LayoutBuilder();
afterEach(() => {
  expect(readdirSync(directory).filter((name) => name !== 'out.clip')).toEqual([]); // no temporary file stays, ever
  rmSync(out, { force: true });
  layout.remove();
  layout = new LayoutBuilder();
});
afterAll(() => {
  layout.remove();
  rmSync(directory, { recursive: true, force: true });
});

interface Layer {
  readonly blob: Uint8Array;
  readonly tar: Uint8Array;
  readonly mediaType?: string;
  /** As the config shall have it, when not the truth. */
  readonly diffId?: string;
}

function image(layers: readonly Layer[]): string {
  const diffIds = layers.map((layer) => layer.diffId ?? sha256(layer.tar));
  const config = layout.json(
    { os: 'linux', architecture: 'amd64', config: { Cmd: ['/bin/sh'] }, rootfs: { type: 'layers', diff_ids: diffIds } },
    MEDIA.ociConfig,
  );
  const blobs = layers.map(({ blob, mediaType = MEDIA.ociLayer }) => layout.blob(blob, mediaType));
  return layout.tag(layout.manifest(config, blobs), 'test');
}

const gzipped = (content: Uint8Array, mediaType?: string): Layer => {
  return { blob: gzipSync(content), tar: content, ...(mediaType === undefined ? {} : { mediaType }) };
};

function index(
  imageRef: string,
  options: Partial<CreateFromOCIImageOptions> = {},
): ReturnType<typeof createFromOCIImage> {
  return createFromOCIImage({ imageRef, outputPath: out, platform: 'linux/amd64', ...options });
}

async function failure(work: Promise<unknown>): Promise<ClipError> {
  const error: unknown = await work.then(
    () => new Error('it worked'),
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(ClipError);
  return error as ClipError;
}

test.each([
  'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
  'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip',
])('%s: indexed where it is kept with the image; where not, the error says why', async (mediaType) => {
  const layer = gzipped(tar(file('a', 'b')), mediaType);
  const reference = image([layer]);
  expect(await index(reference)).toMatchObject({ inodes: 2 });
  rmSync(layout.blobPath(sha256(layer.blob)));
  const error = await failure(index(reference));
  expect(error).toMatchObject({
    code: 'NOT_FOUND',
    hint: expect.stringMatching(/push the image with all layers of its base/),
  });
  expect(error.message).toContain(`${sha256(layer.blob)} is foreign (${mediaType})`);
});

const BIG = tar(
  dir('usr'),
  file('usr/big', layerLike(9_000_000)),
  file('usr/small', 'hello'),
  symlink('bin', 'usr/bin'),
);

describe('an indexed image can be read', () => {
  test('layers of every kind, even with wrong media types, with one span or many', async () => {
    const top = tar(file('top', randomBytes(5000)), whiteout('usr/small'));
    const layers: Layer[] = [
      gzipped(BIG),
      gzipped(top, 'application/vnd.oci.image.layer.v1.tar'), // gzip that claims to be plain
      { blob: BIG, tar: BIG, mediaType: 'application/vnd.oci.image.layer.v1.tar+zstd' }, // plain that claims to be zstd
      { blob: Buffer.concat([gzipSync(top.subarray(0, 700)), gzipSync(top.subarray(700))]), tar: top }, // two members
      { blob: new Uint8Array(0), tar: new Uint8Array(0) },
      gzipped(new Uint8Array(1024)), // Docker's empty layer
      gzipped(new Uint8Array(0)),
    ];
    const result = await index(image(layers), { checkpointMiB: 1 });
    const opened = ArchiveFile.open(out);
    expect(result.layers.map((layer) => layer.kind)).toEqual(['gzip', 'gzip', 'tar', 'gzip', 'tar', 'gzip', 'gzip']);
    expect(opened.archive.layers.map(({ table }) => table.count)).toEqual([9, 1, 9, 1, 0, 1, 0]);
    expect(opened.archive.identity).toBe(result.identity);
    expect(result.size).toBe(statSync(out).size);
    layers.forEach((layer, i) => {
      checkLayer(opened.archive, i, layer.blob, layer.tar);
    });
    const reader = new ErofsReader(opened.archive.tree);
    expect(result.inodes).toBe(reader.inodeCount);
    const nid = reader.lookupPath(Buffer.from('usr/big'));
    const inode = new InodeView();
    reader.inode(nid, inode);
    expect(inode.size).toBe(9_000_000);
    opened.close();
  });

  test('zstd: many frames by frame, one frame in order, a skippable frame first; labelled gzip', async () => {
    const frames: Uint8Array[] = [];
    for (let at = 0; at < BIG.length; at += 700_000) frames.push(compressLayer(BIG.subarray(at, at + 700_000), 'zstd'));
    const skippable = Buffer.from('502a4d1804000000abcdef01', 'hex');
    const layers: Layer[] = [
      { blob: Buffer.concat(frames), tar: BIG },
      { blob: compressLayer(BIG, 'zstd'), tar: BIG },
      { blob: Buffer.concat([skippable, ...frames, skippable]), tar: BIG },
      { blob: compressLayer(tar(file('z', 'z')), 'zstd'), tar: tar(file('z', 'z')) },
    ];
    const { layers: kinds } = await index(image(layers), { checkpointMiB: 1 });
    expect(kinds.map((layer) => layer.kind)).toEqual(['zstd', 'zstd-stream', 'zstd', 'zstd']);
    const opened = ArchiveFile.open(out);
    layers.forEach((layer, i) => {
      checkLayer(opened.archive, i, layer.blob, layer.tar);
    });
    opened.close();
  });

  test('the same layer twice is read once; 127 layers', async () => {
    const one = gzipped(tar(file('x', 'one')));
    const layers = Array.from({ length: 127 }, (_, i) => (i % 2 === 0 ? one : gzipped(tar(file(`f${i}`, `${i}`)))));
    const seen: string[] = [];
    const result = await index(image(layers), { onProgress: (p) => p.done === 0 && seen.push(p.digest) });
    expect(seen.length).toBe(64);
    expect(new Set(seen).size).toBe(64);
    expect(result.image.layers.length).toBe(127);
    const opened = ArchiveFile.open(out);
    expect(opened.archive.layers[126]!.table).toBe(opened.archive.layers[0]!.table);
    expect(result.inodes).toBe(1 + 1 + 63);
    opened.close();
  });

  test('an image without layers', async () => {
    const result = await index(image([]));
    expect(result).toMatchObject({ inodes: 1, compressedSize: 0 });
  });

  test('the same image gives the same bytes; progress ends at each layer’s size', async () => {
    const ref = image([gzipped(BIG), gzipped(tar(file('a', 'b')))]);
    const last = new Map<string, [number, number]>();
    await index(ref, { onProgress: ({ digest, done, total }) => last.set(digest, [done, total]) });
    const first = readFileSync(out);
    await index(ref);
    expect(readFileSync(out).equals(first)).toBe(true);
    expect(last.size).toBe(2);
    for (const [done, total] of last.values()) expect(done).toBe(total);
  });

  test('hashes: SHA-256 of each regular file, holes included, and diff IDs checked', async () => {
    const data = layerLike(3_000_000);
    const sparse = paxSparse('1.0', 'sparse', 1_000_000, [
      [4096, 'abc'],
      [500_000, 'xyz'],
    ]);
    const base = tar(file('a', data), file('empty', ''), sparse, file('gone', 'gone'));
    await index(image([gzipped(base), gzipped(tar(whiteout('gone'), file('b', 'b')))]), { hashes: true });
    const opened = ArchiveFile.open(out);
    const hashes = opened.archive.hashes()!;
    const reader = new ErofsReader(opened.archive.tree);
    const of = (path: string): string => {
      const at = hashes.nid.indexOf(reader.lookupPath(Buffer.from(path)));
      expect(at).toBeGreaterThanOrEqual(0);
      return Buffer.from(hashes.sha256.subarray(32 * at, 32 * at + 32)).toString('hex');
    };
    const whole = Buffer.alloc(1_000_000);
    whole.write('abc', 4096);
    whole.write('xyz', 500_000);
    const expected = { a: data, empty: Buffer.alloc(0), sparse: whole, b: Buffer.from('b') };
    for (const [path, content] of Object.entries(expected)) {
      expect(of(path)).toBe(createHash('sha256').update(content).digest('hex'));
    }
    expect(hashes.count).toBe(4);
    opened.close();
  });

  test('a storage reference other than the one indexed', async () => {
    const result = await index(image([gzipped(BIG)]), { storageImageRef: 'registry.example.com/team/app:1' });
    expect(result.image).toMatchObject({ registry: 'registry.example.com', repository: 'team/app' });
  });

  test('trailing garbage after gzip is a warning', async () => {
    const content = tar(file('a', 'a'));
    const blob = Buffer.concat([gzipSync(content), Buffer.from('garbage')]);
    const { warnings } = await index(image([{ blob, tar: content }]));
    expect(warnings.join()).toMatch(/layer sha256:.*trailing garbage/);
    const opened = ArchiveFile.open(out);
    checkLayer(opened.archive, 0, blob, content);
    opened.close();
  });
});

describe('a fault of a layer is an error that names the layer, and nothing is written', () => {
  const good = gzipSync(BIG);
  const damaged = Buffer.from(good);
  damaged[good.length >> 1]! ^= 0x10;
  const cases: [string, Layer, RegExp][] = [
    ['truncated gzip', { blob: good.subarray(0, good.length - 9), tar: BIG }, /truncated/],
    ['truncated within a block', { blob: good.subarray(0, good.length >> 1), tar: BIG }, /truncated/],
    ['corrupt gzip', { blob: damaged, tar: BIG }, /gzip|deflate/],
    [
      'not a tar at all',
      { blob: Buffer.from('#!/bin/sh\n'.repeat(100)), tar: BIG },
      /neither a tar nor one compressed by gzip or zstd, but plain text$/,
    ],
    ['xz', { blob: Buffer.from('fd377a585a000004', 'hex'), tar: BIG }, /but xz/],
    ['JSON', { blob: Buffer.from('{"mediaType":"application/json"}'), tar: BIG }, /but JSON text$/],
    ['an ELF program', { blob: readFileSync('/bin/true'), tar: BIG }, /but an ELF program$/],
    ['gzip of text', gzipped(Buffer.from('hello, world'.repeat(100))), /tar header.*not a tar archive, but plain text/],
    ['gzip of a short text', gzipped(Buffer.from('{}')), /not a tar archive, but JSON text/],
    [
      'a tar with a bad checksum',
      gzipped(Buffer.concat([BIG.subarray(0, 100), Buffer.from('!'), BIG.subarray(101)])),
      /checksum/,
    ],
    ['a tar that ends inside a file', gzipped(BIG.subarray(0, 5_000_000)), /tar.*ends inside/],
  ];
  test.each(cases)('%s', async (_, layer, message) => {
    const ref = image([gzipped(tar(file('fine', 'fine'))), layer]);
    const error = await failure(index(ref));
    expect(error).toBeInstanceOf(FormatError);
    expect(error.message).toContain(`layer ${sha256(layer.blob)}`);
    expect(error.message).toMatch(message);
    expect(readdirSync(directory)).toEqual([]);
  });

  test('a blob that does not match its digest', async () => {
    const layer = gzipped(BIG);
    const ref = image([layer]);
    // Another valid gzip of the same length: only the digest tells.
    const other = Buffer.from(layer.blob);
    other[4]! ^= 1; // MTIME
    writeFileSync(layout.blobPath(sha256(layer.blob)), other);
    const error = await failure(index(ref));
    expect(error).toMatchObject({ code: 'DIGEST_MISMATCH' });
    expect(error.message).toContain(sha256(layer.blob));
    expect(error.message).not.toContain(sha256(other));
  });

  test('a diff ID that is not the tar’s is found with hashes', async () => {
    const ref = image([{ ...gzipped(BIG), diffId: sha256('something else') }]);
    await index(ref);
    const error = await failure(index(ref, { hashes: true }));
    expect(error.code).toBe('DIGEST_MISMATCH');
    expect(error.message).toMatch(/its tar does not have the digest/);
  });

  test('an existing archive stays as it is when indexing fails', async () => {
    writeFileSync(out, 'precious');
    await failure(index(image([{ blob: Buffer.from('x'), tar: BIG }])));
    expect(readFileSync(out, 'utf8')).toBe('precious');
  });

  test('interrupted in the middle', async () => {
    const noise = tar(file('noise', randomBytes(30_000_000)));
    const controller = new AbortController();
    const work = index(image([gzipped(noise)]), {
      signal: controller.signal,
      onProgress: ({ done }) => done > 3_000_000 && controller.abort(),
    });
    expect(await failure(work)).toMatchObject({ code: 'ABORTED' });
    expect(readdirSync(directory)).toEqual([]);
  });

  test('options and output paths that cannot be', async () => {
    const ref = image([gzipped(BIG)]);
    for (const checkpointMiB of [0, 65, 1.5])
      expect(await failure(index(ref, { checkpointMiB }))).toMatchObject({ code: 'USAGE' });
    expect(await failure(index(ref, { outputPath: join(directory, 'no/such/x.clip') }))).toMatchObject({
      message: expect.stringContaining('directory does not exist'),
      hint: `mkdir -p ${join(directory, 'no/such')}`,
    });
    expect((await failure(index(ref, { outputPath: directory }))).message).toMatch(/not a regular file/);
    expect(await failure(index(`oci:${layout.directory}:other`))).toMatchObject({ code: 'NOT_FOUND' });
  });
});
