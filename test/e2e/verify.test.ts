import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { createFromOCIImage, openArchiveFile, verifyArchive } from '../../src/index/index.js';
import { sourceForArchive } from '../../src/oci/index.js';
import { layerLike } from '../support/gzip.js';
import { type Compression, writeImage } from '../support/images.js';
import { sha256 } from '../support/layout.js';
import { file, gnuSparse, paxSparse, tar, whiteout } from '../support/tar.js';

const directory = mkdtempSync(join(tmpdir(), 'clip-verify-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const TAR = tar(
  file('a', layerLike(2_500_000)),
  file('empty'),
  paxSparse('1.0', 'sparse', 1_000_000, [
    [5, 'abc'],
    [500_000, 'xyz'],
  ]),
  gnuSparse('old', 70_000, [
    [512, 'abc'],
    [65_536, 'xyz'],
  ]),
  file('b', layerLike(1_500_000, 9)),
  file('gone', 'gone'),
);

test.each<Compression>(['gzip', 'zstd', 'none'])(
  '%s: all spans and files, then a damaged blob',
  async (compression) => {
    const image = writeImage([TAR, tar(whiteout('gone'), file('c', 'c')), TAR], { compression });
    const out = join(directory, `${compression}.clip`);
    await createFromOCIImage({ imageRef: image.reference, outputPath: out, checkpointMiB: 1, hashes: true });
    const opened = openArchiveFile(out);
    const { archive } = opened;
    const source = sourceForArchive(archive.image);
    const seen = new Map<string, number>();
    const good = await verifyArchive(archive, source, { onProgress: ({ digest, done }) => seen.set(digest, done) });
    expect(good).toMatchObject({ layers: 2, problems: [] });
    expect(good.files).toBe(archive.hashes()!.count);
    expect(good.files).toBe(7); // a, empty, sparse, old, b and gone of the second use of the layer; c
    expect([...seen.values()]).toEqual([archive.image.layers[0]!.size, archive.image.layers[1]!.size]);
    await source.close();

    const { fetchRange } = source;
    const lying = {
      fetchRange: async (...args: Parameters<typeof fetchRange>) => {
        const bytes = await again.fetchRange(...args);
        if (args[0] === archive.image.layers[0]!.digest && args[1] === start) bytes[100]! ^= 1;
        return bytes;
      },
    };
    const { table } = archive.layers[0]!;
    const start = Math.floor(table.bitOffset[table.count - 1]! / 8);
    const again = sourceForArchive(archive.image);
    const bad = await verifyArchive(archive, lying);
    expect(bad.problems.length).toBe(1);
    expect(bad.problems[0]).toMatch(/layer sha256:.*, span \d+: .*not those that were indexed/);
    expect(bad.files).toBeLessThan(good.files);
    await again.close();
    opened.close();
    image.remove();
  },
);

test('a file hash that is not the file’s', async () => {
  const image = writeImage([tar(file('x', 'x'))]);
  const out = join(directory, 'hash.clip');
  await createFromOCIImage({ imageRef: image.reference, outputPath: out, hashes: true });
  const opened = openArchiveFile(out);
  const source = sourceForArchive(opened.archive.image);
  const hashes = opened.archive.hashes()!;
  const wrong = { ...opened.archive, hashes: () => ({ ...hashes, sha256: new Uint8Array(32) }) };
  expect((await verifyArchive(wrong, source)).problems.join()).toMatch(/nid \d+: its content has another SHA-256/);
  await source.close();
  opened.close();
  image.remove();
  writeFileSync(out, sha256('')); // the archive itself is not trusted either
  expect(() => openArchiveFile(out)).toThrow(/not a .clip archive/);
});
