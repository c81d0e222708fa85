import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { LayoutBuilder } from '../../test/support/layout.js';
import { collect, failure, fetchRange, imagesLayout, Sources } from '../../test/support/sources.js';
import { type ImageSource, type LayoutReference, parsePlatform, parseReference, sourceForArchive } from './index.js';
import { LayoutSource } from './layout.js';

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
    const source = open(mixed.tag(mixed.index([entry]), 'mixed'));
    await expect(source.resolve({ platform: parsePlatform('linux/arm/v7') })).rejects.toMatchObject({
      code: 'NO_PLATFORM',
      message: expect.stringContaining('is an image for linux/amd64, not linux/arm/v7'),
    });
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

  // Attack: the layout of an archive's author has a link in place of a blob, and the user that mounts it may read more files.
  test('a symbolic link in place of a blob, or on the way to it, is not followed', async () => {
    const one = new LayoutBuilder();
    const secret = Buffer.from('a secret of root');
    const outside = mkdtempSync(join(tmpdir(), 'clip-secret-'));
    writeFileSync(join(outside, 'file'), secret);
    const digest = `sha256:${'e'.repeat(64)}`;
    const source = (): ImageSource => open(`oci:${one.directory}`);
    const read = (): Promise<Error> => failure(fetchRange(source(), digest, 0, 4, { size: secret.length }));
    symlinkSync(join(outside, 'file'), one.blobPath(digest));
    expect(await read()).toMatchObject({
      code: 'BAD_FORMAT',
      message: expect.stringMatching(/symbolic link .* not followed/),
    });

    rmSync(one.blobPath(digest));
    writeFileSync(join(outside, 'e'.repeat(64)), secret);
    rmSync(join(one.directory, 'blobs/sha256'), { recursive: true });
    symlinkSync(outside, join(one.directory, 'blobs/sha256'));
    expect((await read()).message).toMatch(/symbolic link/);

    rmSync(join(one.directory, 'oci-layout'));
    symlinkSync(join(outside, 'file'), join(one.directory, 'oci-layout'));
    expect((await failure(source().resolve())).message).toMatch(/symbolic link/);
    rmSync(outside, { recursive: true });
    one.remove();
  });

  // Attack: an archive names a directory that is no layout, such as containerd's, which has files named by digest as well.
  test('a directory without oci-layout is read by nobody', async () => {
    const one = new LayoutBuilder();
    const { digest } = one.image(['x']);
    rmSync(join(one.directory, 'oci-layout'), { force: true });
    expect((await failure(fetchRange(open(`oci:${one.directory}`), digest, 0, 1))).message).toMatch(
      /is not an OCI image layout/,
    );
    one.remove();
  });

  test('FIFOs and devices in place of a blob are refused at once', async () => {
    const one = new LayoutBuilder();
    one.tag(one.image(['x']), 'x');
    const digest = `sha256:${'f'.repeat(64)}`;
    execFileSync('mkfifo', [one.blobPath(digest)]);
    expect((await failure(fetchRange(open(`oci:${one.directory}`), digest, 0, 1))).message).toMatch(
      /not a regular file/,
    );
    one.remove();
  });

  test.runIf(process.getuid?.() === 0)('another user reads what that user may read, whoever runs clip', async () => {
    const one = new LayoutBuilder();
    one.tag(one.image(['x']), 'x');
    chmodSync(one.directory, 0o755);
    const user = { uid: 65534, gid: 65534 };
    const reference = parseReference(`oci:${one.directory}`) as LayoutReference;
    const source = sources.keep(new LayoutSource(reference, user));
    const { layers } = await source.resolve();
    const layer = layers[0]!;
    const options = { size: layer.size };
    chmodSync(one.blobPath(layer.digest), 0o600);
    expect(await failure(fetchRange(source, layer.digest, 0, 1, options))).toMatchObject({ code: 'PERMISSION' });
    expect((await fetchRange(open(`oci:${one.directory}`), layer.digest, 0, 1, options)).length).toBe(1);
    chmodSync(one.blobPath(layer.digest), 0o644);
    expect((await fetchRange(source, layer.digest, 0, 1, options)).length).toBe(1);
    chmodSync(one.directory, 0o700);
    const again = sources.keep(new LayoutSource(reference, user));
    expect(await failure(fetchRange(again, layer.digest, 0, 1, options))).toMatchObject({ code: 'PERMISSION' });
    one.remove();
  });

  test('a digest of what was fetched is the layer’s', () => {
    expect(`sha256:${createHash('sha256').update(image.blob).digest('hex')}`).toBe(image.digest);
  });
});
