import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { constants, createGzip, deflateRawSync, gunzipSync, gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checkSpans, gzipMember, indexGzip, layerLike } from '../../test/support/gzip.js';

// Every encoder a layer may come from, on data of each kind. zlib says what is right; then each span on its own must agree.

const DATA: Record<string, Buffer> = {
  'layer-like': layerLike(1_500_000),
  zeros: Buffer.alloc(700_000),
  noise: layerLike(200_000).map((_, i) => Math.imul(i + 7, 0x9e3779b1) >>> 24) as Buffer,
  'one byte': Buffer.from('x'),
  nothing: Buffer.alloc(0),
};

const directory = mkdtempSync(path.join(tmpdir(), 'clip-gzip-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function check(compressed: Uint8Array, data: Buffer): void {
  for (const spanBytes of [100_000, 777_777, 33_000]) {
    const indexed = indexGzip(compressed, { spanBytes });
    expect(indexed.output.equals(data)).toBe(true);
    expect(indexed.warnings).toEqual([]);
    expect(indexed.checkpoints.map((c) => c.layerOffset)).toEqual(
      Array.from({ length: Math.max(0, Math.ceil(data.length / spanBytes) - 1) }, (_, i) => (i + 1) * spanBytes),
    );
    checkSpans(compressed, indexed);
  }
}

/** Streams through createGzip, flushing after each piece. */
async function flushed(data: Buffer, flush: number, pieces: number): Promise<Buffer> {
  const gzip = createGzip();
  const out: Buffer[] = [];
  gzip.on('data', (chunk: Buffer) => out.push(chunk));
  const size = Math.max(1, Math.ceil(data.length / pieces));
  for (let at = 0; at < data.length; at += size) {
    gzip.write(data.subarray(at, at + size));
    await new Promise<void>((resolve) => gzip.flush(flush, resolve));
  }
  gzip.end();
  await new Promise((resolve) => gzip.on('end', resolve));
  return Buffer.concat(out);
}

describe.each(Object.entries(DATA))('%s', (name, data) => {
  const file = path.join(directory, name.replaceAll(' ', '-'));
  beforeAll(() => writeFileSync(file, data));

  test.each([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])('zlib level %i', (level) => check(gzipSync(data, { level }), data));

  test.each([
    ['huffman only', constants.Z_HUFFMAN_ONLY],
    ['rle', constants.Z_RLE],
    ['fixed', constants.Z_FIXED],
    ['filtered', constants.Z_FILTERED],
  ])('zlib strategy %s', (_, strategy) => check(gzipSync(data, { strategy }), data));

  test.each([9, 12, 15])('zlib windowBits %i, memLevel 1', (windowBits) =>
    check(gzipSync(data, { windowBits, memLevel: 1 }), data),
  );

  test('zlib level 6 with a large block: memLevel 9', () => check(gzipSync(data, { memLevel: 9 }), data));

  test('sync, full and partial flushes: empty blocks', async () => {
    check(await flushed(data, constants.Z_SYNC_FLUSH, 50), data);
    check(await flushed(data, constants.Z_FULL_FLUSH, 50), data);
    check(await flushed(data, constants.Z_PARTIAL_FLUSH, 50), data);
  });

  test('a block boundary wherever two deflate streams were joined', () => {
    const half = data.length >> 1;
    const first = deflateRawSync(data.subarray(0, half), { finishFlush: constants.Z_SYNC_FLUSH });
    check(gzipMember(Buffer.concat([first, deflateRawSync(data.subarray(half))]), data), data);
  });

  // Debian: gzip, pigz, tabix (bgzip), zopfli, isal, libdeflate-tools.
  const programs: [string, string[]][] = [
    ['gzip', ['-1c']],
    ['gzip', ['-9c']],
    ['gzip', ['--rsyncable', '-c']],
    ['pigz', ['-c', '-p2']],
    ['pigz', ['-ci', '-p2']],
    ['pigz', ['-c', '-p2', '--blocksize', '32']],
    ['pigz', ['-c', '-p2', '-11', '-I', '1']],
    ['bgzip', ['-c']],
    ['zopfli', ['-c', '--i1']],
    ['igzip', ['-0', '-c']],
    ['igzip', ['-1', '-c']],
    ['igzip', ['-2', '-c']],
    ['igzip', ['-3', '-c']],
    ['libdeflate-gzip', ['-1', '-c', '-k']],
    ['libdeflate-gzip', ['-6', '-c', '-k']],
    ['libdeflate-gzip', ['-12', '-c', '-k']],
  ];
  test.each(programs.filter(([program]) => program !== 'zopfli' || data.length < 1_000_000))(
    '%s %j',
    (program, args) => {
      const compressed = execFileSync(program, [...args, file], { maxBuffer: 1 << 26 });
      expect(gunzipSync(compressed).equals(data)).toBe(true);
      check(compressed, data);
    },
  );
});

test('one block many spans long: 40 MB, stored and dynamic, with flat memory', () => {
  const data = layerLike(40_000_000);
  const file = path.join(directory, 'large');
  writeFileSync(file, data);
  // igzip -0 and libdeflate write blocks as long as they like; stored ones end after 65,535 bytes.
  for (const compressed of [
    execFileSync('igzip', ['-0', '-c', file], { maxBuffer: 1 << 27 }),
    execFileSync('libdeflate-gzip', ['-1', '-c', '-k', file], { maxBuffer: 1 << 27 }),
    gzipSync(data, { level: 0 }),
  ]) {
    const indexed = indexGzip(compressed, { spanBytes: 1 << 20 });
    expect(indexed.checkpoints.length).toBe(38);
    checkSpans(compressed, indexed);
    expect(indexed.output.equals(data)).toBe(true);
  }
  expect(readFileSync(file).length).toBe(data.length);
});
