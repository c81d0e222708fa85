import { createHash } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { LayoutBuilder } from '../../test/support/layout.js';
import { collect, failure, fetchRange, imagesLayout, Sources } from '../../test/support/sources.js';
import { parsePlatform, sourceForArchive } from './index.js';

const { layout, image } = imagesLayout();
const sources = new Sources();
const open = sources.open.bind(sources);
afterEach(() => sources.close());
afterAll(() => layout.remove());

describe('nested indexes', () => {
  test('are followed, in layouts as in registries, to a limit', async () => {
    const nested = new LayoutBuilder();
    const leaf = {
      ...nested.image(['deep'], { architecture: 'riscv64' }),
      platform: { os: 'linux', architecture: 'riscv64' },
    };
    let index = nested.index([leaf]);
    const riscv = parsePlatform('linux/riscv64');
    for (let depth = 2; depth <= 4; depth++) index = nested.index([index]);
    expect((await open(nested.tag(index, 'four')).resolve({ platform: riscv })).platform.architecture).toBe('riscv64');
    index = nested.index([nested.index([index])]);
    expect(await failure(open(nested.tag(index, 'six')).resolve({ platform: riscv }))).toMatchObject({ code: 'LIMIT' });
    const wide = nested.index(
      Array.from({ length: 40 }, (_, i) => nested.index([{ ...leaf, platform: { os: `os${i}`, architecture: 'x' } }])),
    );
    expect(await failure(open(nested.tag(wide, 'wide')).resolve({ platform: riscv }))).toMatchObject({ code: 'LIMIT' });
    const two = nested.index([
      nested.index([{ ...leaf, platform: { os: 'linux', architecture: 's390x' } }]),
      nested.index([leaf]),
    ]);
    expect((await open(nested.tag(two, 'two')).resolve({ platform: riscv })).platform.architecture).toBe('riscv64');
    nested.remove();
  });
});

test('an index that lists an image as another processor’s does not lend it that one’s variant', async () => {
  const mixed = new LayoutBuilder();
  try {
    const entry = {
      ...mixed.image(['a'], { architecture: 'amd64' }),
      platform: { os: 'linux', architecture: 'arm', variant: 'v7' },
    };
    const warnings: string[] = [];
    const source = open(mixed.tag(mixed.index([entry]), 'mixed'));
    const { platform } = await source.resolve({
      platform: parsePlatform('linux/arm/v7'),
      onWarning: (warning) => warnings.push(warning),
    });
    expect(platform).toEqual({ os: 'linux', architecture: 'amd64' });
    expect(warnings).toEqual([expect.stringContaining('is an image for linux/amd64, not linux/arm/v7')]);
  } finally {
    mixed.remove();
  }
});

describe('image layouts', () => {
  test('resolve and read as a registry does', async () => {
    const source = open(`oci:${layout.directory}:big`);
    const resolved = await source.resolve();
    expect(resolved).toMatchObject({
      registry: '',
      repository: layout.directory,
      reference: `oci:${layout.directory}:big`,
    });
    const size = image.blob.length;
    expect((await collect(await source.fetchBlob(image.digest, { start: 0 }, { size }))).equals(image.blob)).toBe(true);
    const target = new Uint8Array(new SharedArrayBuffer(1_500_000));
    await source.fetchInto(image.digest, 5, target, { size });
    expect(Buffer.from(target).equals(image.blob.subarray(5, 1_500_005))).toBe(true);
    expect(
      Buffer.from(await fetchRange(source, image.digest, 5, 700_000)).equals(image.blob.subarray(5, 700_000)),
    ).toBe(true);
    const later = sourceForArchive(resolved);
    sources.keep(later);
    expect((await fetchRange(later, image.digest, 0, 3)).length).toBe(3);
    await expect(fetchRange(source, image.digest, 0, size + 1)).rejects.toThrow(RangeError);
    expect(await failure(fetchRange(source, image.digest, 0, 1, { size: size + 1 }))).toMatchObject({
      code: 'DIGEST_MISMATCH',
    });
  });

  test('what can be wrong with them', async () => {
    expect((await failure(open('oci:/nonexistent:x').resolve())).message).toMatch(
      /is not an OCI image layout: it has no oci-layout/,
    );
    const error = await failure(open(`oci:${layout.directory}:nope`).resolve());
    expect(error.hint).toBe(
      `it has: oci:${layout.directory}:big, oci:${layout.directory}:multi, oci:${layout.directory}:docker`,
    );
    expect((await failure(open(`oci:${layout.directory}`).resolve())).message).toMatch(/holds more than one image/);

    const one = new LayoutBuilder();
    expect((await failure(open(`oci:${one.directory}`).resolve())).message).toMatch(/has no image/);
    const only = one.image(['x']);
    one.tag(only);
    expect((await open(`oci:${one.directory}`).resolve()).layers.length).toBe(1);
    expect((await open(`oci:${one.directory}@${only.digest}`).resolve()).manifestDigest).toBe(only.digest);
    const { layers } = await open(`oci:${one.directory}`).resolve();
    rmSync(one.blobPath(layers[0]!.digest));
    expect(await failure(fetchRange(open(`oci:${one.directory}`), layers[0]!.digest, 0, 1))).toMatchObject({
      code: 'NOT_FOUND',
    });
    expect(
      await failure(fetchRange(open(`oci:${one.directory}`), 'sha256:../../../../etc/passwd', 0, 1)),
    ).toMatchObject({ code: 'BAD_FORMAT' });
    mkdirSync(one.blobPath(layers[0]!.digest));
    expect((await failure(fetchRange(open(`oci:${one.directory}`), layers[0]!.digest, 0, 1))).message).toMatch(
      /not a regular file/,
    );
    writeFileSync(one.blobPath(only.digest), 'x'.repeat(only.size));
    expect(await failure(open(`oci:${one.directory}`).resolve())).toMatchObject({ code: 'DIGEST_MISMATCH' });
    one.remove();
  });

  test('a digest of what was fetched is the layer’s', () => {
    expect(`sha256:${createHash('sha256').update(image.blob).digest('hex')}`).toBe(image.digest);
  });
});
