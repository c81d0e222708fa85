import { execFileSync } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { ArchiveFile, verifyArchive } from '../../src/check/index.js';
import { createFromOCIImage } from '../../src/index/index.js';
import { originReference, sourceForArchive } from '../../src/oci/index.js';
import { layerLike } from '../support/gzip.js';
import { compressLayer, writeImage } from '../support/images.js';
import { LayoutBuilder, sha256 } from '../support/layout.js';
import { run } from '../support/processes.js';
import { failure, fetchRange, Sources } from '../support/sources.js';
import { file, symlink, tar } from '../support/tar.js';

const LAYERS = [tar(file('a', layerLike(1_500_000))), tar(file('b', 'second')), tar(file('c', 'third'))];
const sources = new Sources();
const open = sources.open.bind(sources);
let directory: string;
let image: ReturnType<typeof writeImage>;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'clip-archives-'));
  image = writeImage(LAYERS, {});
});
afterEach(() => sources.close());
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** With skopeo, which does not overwrite archives. */
async function copy(to: string, from = image.reference): Promise<void> {
  await run('skopeo', ['--insecure-policy', 'copy', '--quiet', from, to]);
}

/** Indexes it, and reads every span and file back from where the archive says. */
async function indexAndRead(reference: string): Promise<string> {
  const out = join(directory, 'out.clip');
  await createFromOCIImage({ imageRef: reference, outputPath: out, checkpointMiB: 1, hashes: true });
  const opened = ArchiveFile.open(out);
  const { archive } = opened;
  const source = sources.keep(sourceForArchive(archive.image));
  expect(await verifyArchive(archive, source)).toMatchObject({ problems: [], files: 3 });
  opened.close();
  return originReference(archive.image);
}

describe('oci-archive', () => {
  test('skopeo’s is indexed and read, by tag and without', async () => {
    const path = join(directory, 'oci.tar');
    await copy(`oci-archive:${path}:latest`);
    const where = await indexAndRead(`oci-archive:${path}:latest`);
    expect(where).toMatch(new RegExp(`^oci-archive:${path}@sha256:`));
    const [whole, pinned] = [await open(`oci-archive:${path}`).resolve(), await open(where).resolve()];
    expect(whole.manifestDigest).toBe(pinned.manifestDigest);
    expect(whole.manifestDigest).toBe((await open(image.reference).resolve()).manifestDigest);
    expect((await failure(open(`oci-archive:${path}:other`).resolve())).hint).toBe(
      `it has: oci-archive:${path}:latest`,
    );
  });

  test('GNU tar’s, with names that begin with ./', async () => {
    const path = join(directory, 'gnu.tar');
    execFileSync('tar', ['-cf', path, '-C', image.reference.replace(/^oci:(.*?)(?::[^:/]*)?$/, '$1'), '.']);
    await indexAndRead(`oci-archive:${path}`);
  });
});

describe('docker-archive', () => {
  test('skopeo’s, which is docker save’s old form: with the names of Docker', async () => {
    const path = join(directory, 'docker.tar');
    await copy(`docker-archive:${path}:py:1`);
    const where = await indexAndRead(`docker-archive:${path}:py:1`);
    expect(where).toMatch(new RegExp(`^docker-archive:${path}@sha256:`));
    const resolved = await open(`docker-archive:${path}:docker.io/library/py:1`).resolve();
    expect(resolved.layers.map(({ digest }) => digest)).toEqual(LAYERS.map((layer) => sha256(layer)));
    expect((await open(`docker-archive:${path}`).resolve()).manifestDigest).toBe(resolved.manifestDigest);
    expect(await failure(open(`docker-archive:${path}:py:2`).resolve())).toMatchObject({
      code: 'NOT_FOUND',
      hint: `it has: docker-archive:${path}:docker.io/library/py:1`,
    });
  });

  /** An archive by GNU tar of these files. */
  const write = (name: string, files: Record<string, string | Uint8Array>): string => {
    const path = join(directory, name);
    writeFileSync(path, tar(...Object.entries(files).map(([member, data]) => file(member, data))));
    return path;
  };
  const config = Buffer.from(
    JSON.stringify({
      os: 'linux',
      architecture: 'amd64',
      rootfs: { type: 'layers', diff_ids: LAYERS.map((l) => sha256(l)) },
    }),
  );
  const hex = (bytes: Uint8Array): string => sha256(bytes).slice('sha256:'.length);

  test('of Docker 25 and later: layers are blobs, compressed', async () => {
    const blobs = LAYERS.map((layer) => compressLayer(layer, 'gzip'));
    const names = blobs.map((blob) => `blobs/sha256/${hex(blob)}`);
    const manifest = [{ Config: `blobs/sha256/${hex(config)}`, RepoTags: ['h.io:5000/x/y:1'], Layers: names }];
    const path = write('docker25.tar', {
      'manifest.json': JSON.stringify(manifest),
      [`blobs/sha256/${hex(config)}`]: config,
      ...Object.fromEntries(blobs.map((blob, i) => [names[i]!, blob])),
      'oci-layout': '{"imageLayoutVersion":"1.0.0"}',
    });
    await indexAndRead(`docker-archive:${path}:h.io:5000/x/y:1`);
    const { layers } = await open(`docker-archive:${path}`).resolve();
    expect(layers.map(({ digest }) => digest)).toEqual(blobs.map((blob) => sha256(blob)));
  });

  test('of old Dockers: several images, layers that images share as links, layers compressed under other names', async () => {
    const [one, two, three] = LAYERS as [Uint8Array, Uint8Array, Uint8Array];
    const manifest = [
      { Config: 'c.json', RepoTags: ['a:1', 'a:2'], Layers: ['x/layer.tar', 'y/layer.tar', 'z/layer.tar'] },
      { Config: 'c.json', RepoTags: null, Layers: ['x/layer.tar', 'y/layer.tar', 'link/layer.tar'] },
    ];
    const path = join(directory, 'old.tar');
    writeFileSync(
      path,
      tar(
        file('manifest.json', JSON.stringify(manifest)),
        file('c.json', config),
        file('x/layer.tar', one),
        file('y/layer.tar', compressLayer(two, 'gzip')),
        file('z/layer.tar', three),
        symlink('link/layer.tar', '../z/layer.tar'),
      ),
    );
    await indexAndRead(`docker-archive:${path}:a:2`);
    const { layers } = await open(`docker-archive:${path}`).resolve();
    expect(layers[1]!.digest).toBe(sha256(compressLayer(two, 'gzip')));
  });

  test('what is none says what is wrong', async () => {
    const why = async (path: string, form = 'docker-archive'): Promise<string> => {
      const error = await failure(open(`${form}:${path}`).resolve());
      expect(error.hint).toBeTruthy();
      return error.message;
    };
    expect(await why(join(directory, 'missing.tar'))).toMatch(/there is no image archive/);
    expect(await why(write('empty.tar', {}))).toMatch(/it has no manifest\.json/);
    expect(await why(write('a.tar', { 'manifest.json': '{' }))).toMatch(/manifest\.json is not JSON/);
    expect(await why(write('b.tar', { 'manifest.json': '{}' }))).toMatch(/not a list/);
    expect(await why(write('c.tar', { 'manifest.json': '[{"Config":5}]' }))).toMatch(/lacks Config or Layers/);
    const lost = { 'manifest.json': '[{"Config":"c","Layers":["../../etc/passwd"]}]', c: '{}' };
    expect(await why(write('d.tar', lost))).toMatch(/it has no \.\.\/\.\.\/etc\/passwd/);
    expect(await why(directory)).toMatch(/not a regular file/);
    writeFileSync(join(directory, 'text'), 'x'.repeat(2000));
    expect(await why(join(directory, 'text'))).toMatch(/is not an image archive: /);
    expect(await why(write('f.tar', { x: '' }), 'oci-archive')).toMatch(/it has no oci-layout/);
    writeFileSync(join(directory, 'z.tar.gz'), compressLayer(readFileSync(write('g.tar', {})), 'gzip'));
    expect(await why(join(directory, 'z.tar.gz'))).toMatch(/compressed as a whole/);
  });
});

// Attack: a header that claims more than the file has must not make reads go beyond, or memory be taken.
test('members that reach beyond the end of the file are not there', async () => {
  const builder = new LayoutBuilder();
  const path = join(directory, 'cut.tar');
  await copy(`oci-archive:${path}:t`);
  const fd = openSync(path, 'r+');
  ftruncateSync(fd, statSync(path).size - 100_000);
  closeSync(fd);
  expect((await failure(fetchRange(open(`oci-archive:${path}:t`), sha256('x'), 0, 1))).code).toBe('BAD_FORMAT');
  builder.remove();
});

describe('archives made to cost much', () => {
  const MIB = 1024 * 1024;
  const config = (text = '{}'): string =>
    `{"architecture":"amd64","os":"linux","rootfs":{"diff_ids":[]},"config":${text}}`;
  const write = (name: string, images: readonly object[], ...members: Uint8Array[]): string => {
    const path = join(directory, name);
    writeFileSync(path, tar(file('manifest.json', JSON.stringify(images)), ...members));
    return `docker-archive:${path}`;
  };

  test('members that any number of images name are read once', async () => {
    // 20 GB of configs and 160 GB of layers, read one after the other.
    const layers = new Array<string>(1000).fill('layer');
    const images = Array.from({ length: 20_000 }, (_, i) => ({ Config: 'c', Layers: i < 20 ? layers : [] }));
    const members = [file('c', config().padEnd(MIB)), file('layer', compressLayer(layerLike(8 * MIB), 'gzip'))];
    const reference = write('many.tar', [...images, { Config: 'c', Layers: [], RepoTags: ['one:1'] }], ...members);
    expect((await open(`${reference}:one:1`).resolve()).layers).toEqual([]);
  });

  test('configs and names that would fill the memory are refused', async () => {
    const names = ['a', 'b', 'c', 'd', 'e'];
    const images = names.map((name) => ({ Config: name, Layers: [] }));
    const large = write('configs.tar', images, ...names.map((name) => file(name, config().padEnd(15 * MIB))));
    expect(await failure(open(large).resolve())).toMatchObject({
      code: 'LIMIT',
      message: expect.stringMatching(/the configs of its images exceed 67108864 bytes/),
    });
    const long = new Array<Uint8Array>(8500).fill(file('x'.repeat(4000)));
    const path = join(directory, 'names.tar');
    writeFileSync(path, tar(...long));
    for (const form of ['docker-archive', 'oci-archive']) {
      expect(await failure(open(`${form}:${path}`).resolve())).toMatchObject({
        code: 'LIMIT',
        message: expect.stringMatching(/the names of its files exceed 33554432 bytes/),
      });
    }
  });

  test('JSON of two million brackets is refused in one line, in a config and in manifest.json', async () => {
    const deep = `${'['.repeat(1_000_000)}${']'.repeat(1_000_000)}`;
    const inConfig = write('deep.tar', [{ Config: 'c', Layers: [] }], file('c', config(deep)));
    expect(await failure(open(inConfig).resolve())).toMatchObject({
      code: 'BAD_FORMAT',
      message: expect.stringMatching(/^the config c of .*deep\.tar is not JSON/),
    });
    const path = join(directory, 'brackets.tar');
    writeFileSync(path, tar(file('manifest.json', deep)));
    expect(await failure(open(`docker-archive:${path}`).resolve())).toMatchObject({ code: 'BAD_FORMAT' });
    const built = writeImage(LAYERS, { config: { Labels: JSON.parse('['.repeat(500) + ']'.repeat(500)) } });
    expect(
      await failure(createFromOCIImage({ imageRef: built.reference, outputPath: join(directory, 'deep.clip') })),
    ).toMatchObject({
      code: 'BAD_FORMAT',
    });
    built.remove();
  });
});
