import { execFileSync, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { crc32, FormatError } from '../bytes/index.js';
import { ZstdIndexer, ZstdSpanInflater, ZstdStream, type ZstdSummary } from './index.js';

const MIB = 1 << 20;

/** Text, noise and zeros in turns: blocks of every type. */
function sample(length: number): Buffer {
  const out = Buffer.alloc(length);
  for (let at = 0, turn = 0; at < length; turn++) {
    const n = Math.min(length - at, 3000 + ((turn * 7919) % 200_000));
    if (turn % 3 === 0) out.fill(`line ${turn} of a layer, ${turn * turn}\n`, at, at + n);
    if (turn % 3 === 1) randomBytes(n).copy(out, at);
    at += n;
  }
  return out;
}

/** Debian's zstd; from stdin, so that the frame does not say its content's size, unless `sized`. */
function zstd(data: Uint8Array, args: readonly string[] = [], sized = false): Buffer {
  const known = sized ? [`--stream-size=${data.length}`] : [];
  return execFileSync('zstd', ['-q', '-c', ...known, ...args], {
    input: data,
    maxBuffer: 1 << 30,
    stdio: ['pipe', 'pipe', 'ignore'],
  });
}

function skippable(length: number, type = 0): Buffer {
  const frame = Buffer.alloc(8 + length, 0x5a);
  frame.writeUInt32LE(0x184d2a50 + type, 0);
  frame.writeUInt32LE(length, 4);
  return frame;
}

interface Indexed {
  readonly summary: ZstdSummary;
  /** From (0, 0) to the end of the last span. */
  readonly bounds: readonly { layerOffset: number; byteOffset: number; crc: number }[];
  readonly output: Buffer;
}

function index(blob: Uint8Array, spanBytes: number, chunk = 64 * 1024, minBytes = 0): Indexed {
  const indexer = new ZstdIndexer({ spanBytes, minBytes, blobBytes: blob.length });
  const bounds = [{ layerOffset: 0, byteOffset: 0, crc: 0 }];
  let fedTo = 0;
  const output: Buffer[] = [];
  let crc = 0;
  indexer.onBoundary = (layerOffset, byteOffset) => {
    // The promise that digests rely on: announced before the input goes far beyond.
    expect(byteOffset).toBeGreaterThanOrEqual(fedTo - 16 * 1024 - 8);
    bounds.push({ layerOffset, byteOffset, crc });
    crc = 0;
  };
  for (let at = 0; at < blob.length; at += chunk) {
    indexer.push(blob.subarray(at, at + chunk), (view) => {
      crc = crc32(view, crc);
      output.push(Buffer.from(view));
    });
    fedTo = at + chunk;
  }
  fedTo = 0;
  return { summary: indexer.finish(), bounds, output: Buffer.concat(output) };
}

/** Decodes every span the way a reader does, and compares with the truth. */
function checkSpans(blob: Uint8Array, { summary, bounds }: Indexed, truth: Uint8Array): void {
  const stream = summary.kind === 'zstd-stream' ? new ZstdStream() : null;
  const inflater = new ZstdSpanInflater();
  const order = bounds.slice(1).map((_, i) => i);
  if (stream === null) order.reverse();
  for (const i of order) {
    const [from, to] = [bounds[i]!, bounds[i + 1]!];
    expect(to.layerOffset).toBeGreaterThan(from.layerOffset);
    expect(to.byteOffset).toBeGreaterThan(from.byteOffset);
    const out: Buffer[] = [];
    const compressed = blob.subarray(from.byteOffset, to.byteOffset);
    const length = to.layerOffset - from.layerOffset;
    const onOutput = (view: Uint8Array): void => void out.push(Buffer.from(view));
    const crc =
      stream === null ? inflater.inflate(compressed, length, onOutput) : stream.inflate(compressed, length, onOutput);
    const expected = truth.subarray(from.layerOffset, to.layerOffset);
    expect(Buffer.concat(out).equals(expected)).toBe(true);
    expect(crc).toBe(to.crc);
    expect(crc).toBe(crc32(expected));
  }
  expect(bounds.at(-1)!.layerOffset).toBe(truth.length);
}

describe('zstd layers', () => {
  const data = sample(9 * MIB);
  let directory = '';
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'clip-zstd-'));
    writeFileSync(join(directory, 'data'), data);
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  test.each([
    [['-1']],
    [['-3']],
    [['-9']],
    [['-19']],
    [['--fast=5']],
    [['-3', '--long=27']],
    [['-3', '--no-check']],
    [['-22', '--ultra']],
  ])('one frame of unsaid length, %j: sequential spans', (args) => {
    const blob = zstd(data, args);
    const indexed = index(blob, MIB);
    expect(indexed.output.equals(data)).toBe(true);
    expect(indexed.summary).toMatchObject({ kind: 'zstd-stream', compressedSize: blob.length, layerSize: data.length });
    checkSpans(blob, indexed, data);
    // Four spans until it is clear that the frame is long, then one after the other.
    expect(indexed.bounds.length).toBe(1 + 1 + 5);
    expect(indexed.bounds[1]!.layerOffset).toBeLessThan(4 * MIB + 128 * 1024);
  });

  test('one frame that says its length: sequential from the first span on', () => {
    const blob = zstd(data, ['-3'], true);
    const indexed = index(blob, MIB);
    expect(indexed.summary.kind).toBe('zstd-stream');
    expect(indexed.bounds.length).toBe(1 + 9);
    checkSpans(blob, indexed, data);
  });

  test('frames of up to eight spans that say their length stay random-access', () => {
    const blob = zstd(data, ['-3'], true);
    expect(index(blob, 2 * MIB).summary.kind).toBe('zstd');
    checkSpans(blob, index(blob, 2 * MIB), data);
  });

  test('many frames, as zstd:chunked writes them: spans are groups of frames', () => {
    const parts: Buffer[] = [];
    for (let at = 0; at < data.length; at += 70_001) parts.push(zstd(data.subarray(at, at + 70_001), ['-1']));
    const blob = Buffer.concat(parts);
    const indexed = index(blob, MIB);
    expect(indexed.summary.kind).toBe('zstd');
    expect(indexed.bounds.length).toBe(1 + 9);
    checkSpans(blob, indexed, data);
  });

  test('pzstd: frames behind small skippable ones', () => {
    execFileSync('pzstd', ['-q', '-f', '-p', '4', '-1', join(directory, 'data'), '-o', join(directory, 'p.zst')]);
    const blob = execFileSync('cat', [join(directory, 'p.zst')], { maxBuffer: 1 << 30 });
    expect(blob.readUInt32LE(0) & 0xfffffff0).toBe(0x184d2a50);
    const indexed = index(blob, MIB);
    expect(indexed.output.equals(data)).toBe(true);
    checkSpans(blob, indexed, data);
  });

  test('skippable frames: a leading one, between frames, and a long one at the end that no span fetches', () => {
    const half = data.length / 2;
    const [a, b] = [zstd(data.subarray(0, half), ['-1'], true), zstd(data.subarray(half), ['-1'], true)];
    for (const [lead, middle, tail] of [
      [0, 0, 0],
      [100_000, 4, 100_000],
      [4, 100_000, 20],
      [0, 0, 300_000],
    ] as const) {
      const trailer = skippable(tail, 15);
      const blob = Buffer.concat([skippable(lead), a, skippable(middle, 7), skippable(0), b, trailer, skippable(1)]);
      for (const chunk of [64 * 1024, 1 << 30]) {
        const indexed = index(blob, 1 * MIB, chunk);
        expect(indexed.summary).toMatchObject({ kind: 'zstd', compressedSize: blob.length });
        checkSpans(blob, indexed, data);
        expect(indexed.bounds.at(-1)!.byteOffset).toBe(blob.length - trailer.length - 9);
      }
    }
  });

  test('nothing in it: an empty frame, only skippable frames', () => {
    for (const blob of [
      zstd(new Uint8Array()),
      skippable(70_000),
      Buffer.concat([zstd(new Uint8Array()), skippable(3)]),
    ]) {
      expect(index(blob, MIB).summary).toMatchObject({ kind: 'zstd', layerSize: 0, compressedSize: blob.length });
      expect(index(blob, MIB).bounds.length).toBe(1);
    }
  });

  test('zeros: 4 bytes of input for 128 KiB of output', () => {
    const zeros = Buffer.alloc(40 * MIB);
    const blob = zstd(zeros, ['-1']);
    const indexed = index(blob, MIB);
    checkSpans(blob, indexed, zeros);
    expect(createHash('sha256').update(indexed.output).digest('hex')).toBe(
      createHash('sha256').update(zeros).digest('hex'),
    );
  });

  test('no span has fewer compressed bytes than it must: zeros, many frames, a short end', () => {
    const zeros = Buffer.alloc(40 * MIB);
    const tiny = Buffer.from('a tar of a few bytes');
    const frames = Buffer.concat(Array.from({ length: 50 }, () => zstd(tiny)));
    for (const [blob, truth] of [
      [zstd(zeros, ['-1']), zeros],
      [frames, Buffer.concat(Array.from({ length: 50 }, () => tiny))],
      [Buffer.concat([zstd(data), zstd(tiny), skippable(100_000)]), Buffer.concat([data, tiny])],
    ] as const) {
      const indexed = index(blob, 50, 64 * 1024, 512);
      const bytes = indexed.bounds.map(({ byteOffset }) => byteOffset);
      for (let i = 1; i < bytes.length; i++) expect(bytes[i]! - bytes[i - 1]!).toBeGreaterThanOrEqual(512);
      checkSpans(blob, indexed, truth);
    }
    const whole = Buffer.concat([zstd(tiny), skippable(20_000)]);
    const indexed = index(whole, MIB, 64 * 1024, 512);
    expect(indexed.bounds.map(({ byteOffset }) => byteOffset)).toEqual([0, whole.length]);
    checkSpans(whole, indexed, tiny);
  });

  test('a frame beyond 32 MiB makes the layer sequential however long spans may be', () => {
    const zeros = Buffer.alloc(33 * MIB);
    expect(index(zstd(zeros, ['-1'], true), 16 * MIB).summary.kind).toBe('zstd-stream');
    expect(index(zstd(zeros.subarray(0, 32 * MIB), ['-1'], true), 16 * MIB).summary.kind).toBe('zstd');
  });

  test('cuts: spans end at the first block end behind each', () => {
    const blob = zstd(data, ['-3'], true);
    const cuts = Float64Array.of(700_000, 800_000, 5 * MIB);
    const indexer = new ZstdIndexer({ spanBytes: MIB, cuts });
    const ends: number[] = [];
    indexer.onBoundary = (layerOffset) => ends.push(layerOffset);
    indexer.push(blob, () => {});
    indexer.finish();
    expect(ends.length).toBe(4);
    ends.slice(0, 3).forEach((end, i) => {
      expect(end - cuts[i]!).toBeGreaterThanOrEqual(0);
      expect(end - cuts[i]!).toBeLessThan(128 * 1024);
    });
  });

  test('any cutting of the input gives the same spans', () => {
    const small = sample(400_000);
    const blob = Buffer.concat([
      skippable(5),
      zstd(small.subarray(0, 250_000), ['-1']),
      skippable(20_000),
      zstd(small.subarray(250_000), ['-1']),
    ]);
    const plain = ({ summary, bounds, output }: Indexed): unknown => ({ summary, bounds, crc: crc32(output) });
    const whole = plain(index(blob, 50_000));
    expect(plain(index(blob, 50_000, 1))).toEqual(whole);
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5000 }), (chunk) => {
        expect(plain(index(blob, 50_000, chunk))).toEqual(whole);
      }),
      { numRuns: 20 },
    );
  });

  test('a stream cut anywhere is refused', () => {
    const blob = Buffer.concat([skippable(9), zstd(sample(3000), ['-3']), zstd(sample(20), ['-3', '--no-check'])]);
    const ends = new Set([0, 17, 17 + zstd(sample(0)).length]);
    const complete: number[] = [];
    for (let end = 0; end < blob.length; end++) {
      const indexer = new ZstdIndexer({ spanBytes: 1000 });
      indexer.push(blob.subarray(0, end), () => {});
      try {
        indexer.finish();
        complete.push(end);
      } catch (error) {
        expect(error).toBeInstanceOf(FormatError);
      }
    }
    // Only between frames.
    expect(complete.length).toBe(3);
    expect(complete.slice(0, 2)).toEqual([...ends].slice(0, 2));
  });

  test('a flipped bit is an error, or changes nothing', () => {
    const small = sample(30_000);
    const blob = zstd(small, ['-3']);
    fc.assert(
      fc.property(fc.integer({ min: 0, max: blob.length * 8 - 1 }), (bit) => {
        const damaged = Buffer.from(blob);
        damaged[bit >> 3]! ^= 1 << (bit & 7);
        let result: Indexed;
        try {
          result = index(damaged, 10_000, 1 << 30);
        } catch (error) {
          expect((error as Error).name).toMatch(/FormatError|ClipError/);
          return;
        }
        // Header bits without a meaning, or the checksum flag with what is then garbage behind the frame.
        expect(result.output.equals(small)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  test('noise never crashes or hangs', () => {
    const magic = Buffer.from('28b52ffd', 'hex');
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.boolean(), (noise, withMagic) => {
        const blob = withMagic ? Buffer.concat([magic, noise]) : noise;
        try {
          index(blob, 1000);
        } catch (error) {
          expect((error as Error).name).toMatch(/FormatError|ClipError/);
        }
      }),
      { numRuns: 500 },
    );
  });

  test('windows beyond 128 MiB and dictionaries are refused by name', () => {
    const frame = (descriptor: number, ...rest: number[]): Buffer =>
      Buffer.from([0x28, 0xb5, 0x2f, 0xfd, descriptor, ...rest]);
    expect(() => index(frame(0x00, 17 << 3, 1, 0, 0), MIB)).not.toThrow();
    expect(() => index(frame(0x00, (17 << 3) | 1, 1, 0, 0), MIB)).toThrow(
      /window of 150994944 bytes; at most 134217728 are supported/,
    );
    expect(() => index(frame(0x01, 10 << 3, 42, 1, 0, 0), MIB)).toThrow(/needs a dictionary/);
    expect(() => index(frame(0x08, 10 << 3, 1, 0, 0), MIB)).toThrow(/reserved bit/);
    expect(() => index(Buffer.from('hello world'), MIB)).toThrow(/no zstd frame/);
    expect(() => index(Buffer.concat([zstd(Buffer.from('x')), Buffer.alloc(512)]), MIB)).toThrow(/something follows/);
  });

  test('--long=27 is taken, --long=28 is refused with what to do, as zstd -d has it', () => {
    const { output } = index(zstd(data, ['-1', '--long=27']), MIB);
    expect(output.equals(data)).toBe(true);
    const long = zstd(data, ['-1', '--long=28']);
    expect(spawnSync('zstd', ['-d', '-c'], { input: long }).status).not.toBe(0);
    try {
      index(long, MIB);
      expect.unreachable();
    } catch (error) {
      expect(error).toMatchObject({ code: 'UNSUPPORTED', hint: 'compress the layer again with --long=27 or less' });
      expect((error as Error).message).toMatch(/needs a window of 268435456 bytes; at most 134217728/);
    }
  });

  test('a span that is not what the table says is an error, and the inflater works on', () => {
    const blob = zstd(data.subarray(0, 100_000), ['-1'], true);
    const inflater = new ZstdSpanInflater();
    const none = (): void => {};
    expect(() => inflater.inflate(blob, 99_999, none)).toThrow(/more than the 99999/);
    expect(() => inflater.inflate(blob, 100_001, none)).toThrow(/yields 100000 bytes, 100001 expected/);
    expect(() => inflater.inflate(blob.subarray(0, blob.length - 1), 100_000, none)).toThrow(/ends within a frame/);
    expect(() => inflater.inflate(blob.subarray(1), 100_000, none)).toThrow(/unknown magic/);
    expect(inflater.inflate(blob, 100_000, none)).toBe(crc32(data.subarray(0, 100_000)));
  });

  test('memory is the window, however long the stream', () => {
    const blob = zstd(data, ['-1', '--long=27'], true);
    const before = process.memoryUsage().arrayBuffers;
    const indexer = new ZstdIndexer({ spanBytes: MIB });
    for (let i = 0; i < 30; i++) indexer.push(blob, () => {});
    indexer.finish();
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(160 * MIB);
  });
});
