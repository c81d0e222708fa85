import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { ArchiveFile, verifyArchive } from '../../src/check/index.js';
import { createFromOCIImage } from '../../src/index/index.js';
import { sourceForArchive } from '../../src/oci/index.js';
import { Clipctl } from '../support/clipctl.js';
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
    const opened = ArchiveFile.open(out);
    const { archive } = opened;
    const source = sourceForArchive(archive.image);
    const seen = new Map<string, number>();
    const good = await verifyArchive(archive, source, { onProgress: ({ digest, done }) => seen.set(digest, done) });
    expect(good).toMatchObject({ layers: 2, problems: [] });
    expect(good.files).toBe(archive.hashes()!.count);
    expect(good.files).toBe(7); // a, empty, sparse, old, b and gone of the second use of the layer; c
    expect([...seen.values()]).toEqual([archive.image.layers[0]!.size, archive.image.layers[1]!.size]);
    await source.close();

    const lying: Pick<typeof source, 'fetchInto'> = {
      fetchInto: async (digest, from, target, options) => {
        await again.fetchInto(digest, from, target, options);
        if (digest === archive.image.layers[0]!.digest && from === start) target[100]! ^= 1;
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
  const opened = ArchiveFile.open(out);
  const source = sourceForArchive(opened.archive.image);
  const hashes = opened.archive.hashes()!;
  const wrong = { ...opened.archive, hashes: () => ({ ...hashes, sha256: new Uint8Array(32) }) };
  expect((await verifyArchive(wrong, source)).problems.join()).toMatch(/nid \d+: its content has another SHA-256/);
  await source.close();
  opened.close();
  image.remove();
  writeFileSync(out, sha256('')); // the archive itself is not trusted either
  expect(() => ArchiveFile.open(out)).toThrow(/not a .clip archive/);
});

test('--from cache checks the cached spans, beside the clipd that uses them, and needs no registry', async () => {
  const clip = await Clipctl.create();
  try {
    const image = writeImage([tar(file('a', layerLike(3_000_000)), file('b', layerLike(3_000_000, 2)))]);
    const archive = clip.path('x.clip');
    await clip.ok('index', '--image', image.reference, '--out', archive, '--checkpoint', '1', '--hashes');
    const verify = ['verify', '--clip', archive, '--json'];
    const cached = [...verify, '--from', 'cache'];
    interface Report {
      from: string;
      spans: number;
      absent: number;
      files: number;
      problems: string[];
    }
    const report = async (args: string[]): Promise<Report> => JSON.parse((await clip.run(args)).stdout) as Report;
    const all = await report(verify);
    expect(all).toMatchObject({ from: 'registry', absent: 0, files: 2, problems: [] });
    expect(await report(cached)).toMatchObject({ from: 'cache', spans: 0, absent: all.spans, files: 0, problems: [] });

    const place = await clip.place('mnt');
    await clip.ok('mount', '--clip', archive, '--at', place, '--no-readahead', '--no-prefetch');
    readFileSync(join(place, 'a'));
    image.remove();
    const part = await report(cached);
    expect(part).toMatchObject({ files: 1, problems: [] });
    expect(part.spans).toBeGreaterThan(1);
    expect(part.spans + part.absent).toBe(all.spans);

    const spans = clip.path('cache', 'spans');
    const name = readdirSync(spans).find((entry) => !entry.endsWith('.table'))!;
    const fd = openSync(join(spans, name), 'r+');
    writeSync(fd, Buffer.from('!'), 0, 1, 1_500_000);
    closeSync(fd);
    const flipped = await clip.run(cached);
    expect(flipped.code).toBe(1);
    const { problems, files } = JSON.parse(flipped.stdout) as Report;
    expect(problems).toEqual([expect.stringMatching(/^layer sha256:.*, span 1: its bytes in the cache/)]);
    expect(files).toBe(0);
    expect(flipped.stderr).toContain('clipctl cache verify');
    expect((await clip.run(['verify', '--clip', archive, '--from', 'there'])).code).toBe(2);
  } finally {
    await clip.close();
  }
}, 60_000);
