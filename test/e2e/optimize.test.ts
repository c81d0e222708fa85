import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { ArchiveFile } from '../../src/check/index.js';
import { createFromOCIImage } from '../../src/index/index.js';
import { checkLayer } from '../support/check-archive.js';
import { runProgram } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { type Compression, compressLayer, writeImage } from '../support/images.js';
import { file, tar } from '../support/tar.js';

const directory = mkdtempSync(join(tmpdir(), 'clip-optimize-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const CLIPCTL = join(import.meta.dirname, '../../../bin/clipctl.js');
const TAR = tar(file('a', layerLike(6_000_000)), file('b', 'b'));
const RANGES = [
  { layer: 0, start: 4_096_000, end: 4_100_096 },
  { layer: 2, start: 4096, end: 12_288 }, // the same layer's second use
  { layer: 1, start: 0, end: 1024 },
];

test.each<Compression>(['gzip', 'none', 'zstd'])(
  '%s: spans are cut where the profile says, and each is exact',
  async (compression) => {
    const second = tar(file('c', 'c'));
    const image = writeImage([TAR, second, TAR], { compression });
    const clip = join(directory, `${compression}.clip`);
    const out = join(directory, `${compression}-shaped.clip`);
    await createFromOCIImage({ imageRef: image.reference, outputPath: clip, checkpointMiB: 1, hashes: true });
    const before = ArchiveFile.open(clip);
    const profile = join(directory, 'profile.json');
    const layers = before.archive.image.layers.map((layer) => layer.digest);
    const { manifestDigest } = before.archive.image;
    writeFileSync(profile, JSON.stringify({ format: 'clip profile 1', manifestDigest, layers, ranges: RANGES }));
    const args = [CLIPCTL, 'optimize', '--clip', clip, '--profile', profile, '--out', out, '--json'];
    const ran = await runProgram(process.execPath, args);
    expect(ran.stderr).toBe('');
    expect(ran.code).toBe(0);

    const after = ArchiveFile.open(out);
    const { archive } = after;
    expect(archive.image).toEqual(before.archive.image);
    expect(Buffer.compare(archive.tree, before.archive.tree)).toBe(0);
    expect(archive.hashes()).toEqual(before.archive.hashes());
    if (compression !== 'zstd') {
      const { table } = archive.layers[0]!;
      for (const offset of [4096, 12_288, 4_096_000, 4_100_096]) expect(table.layerOffset).toContain(offset);
      // Three ranges, one span each, in the order of the run.
      expect([...archive.profile!.layer]).toEqual([0, 0, 1]);
      const starts = [...archive.profile!.span].map(
        (span, i) => archive.layers[archive.profile!.layer[i]!]!.table.layerOffset[span],
      );
      expect(starts).toEqual([4_096_000, 4096, 0]);
    }
    [TAR, second, TAR].forEach((content, i) => {
      checkLayer(archive, i, compressLayer(content, compression), content);
    });
    before.close();
    after.close();

    writeFileSync(profile, '{');
    const broken = await runProgram(process.execPath, args);
    expect([broken.code, broken.stderr.split('\n')]).toEqual([
      EXIT_CODES.BAD_FORMAT,
      [expect.stringMatching(/profile\.json: not JSON$/), expect.stringMatching(/^ {2}record one: /), ''],
    ]);
    writeFileSync(profile, JSON.stringify({ format: 'clip profile 1', manifestDigest, layers, ranges: RANGES }));
    const other = readFileSync(profile, 'utf8').replaceAll(/"sha256:[0-9a-f]{8}/g, '"sha256:00000000');
    writeFileSync(profile, other);
    const refused = await runProgram(process.execPath, args);
    expect(refused.code).not.toBe(0);
    expect(refused.stderr).toMatch(/profile.json is a profile of sha256:/);
    image.remove();
  },
);
