import { createHash } from 'node:crypto';
import { constants, crc32, deflateRawSync, gzipSync, inflateRawSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { checkSpans, gzipMember, type IndexedGzip, indexGzip, layerLike } from '../../test/support/gzip.js';
import { FormatError } from '../bytes/index.js';
import { GzipIndexer } from './indexer.js';
import { SpanInflater } from './span.js';
import {
  type CheckpointState,
  CheckpointStateError,
  decodeCheckpointState,
  encodeCheckpointState,
  NO_STATE,
} from './state.js';

const encoders = {
  level: fc.constantFrom(0, 1, 6, 9),
  strategy: fc.constantFrom(
    constants.Z_DEFAULT_STRATEGY,
    constants.Z_FIXED,
    constants.Z_HUFFMAN_ONLY,
    constants.Z_RLE,
    constants.Z_FILTERED,
  ),
  memLevel: fc.constantFrom(1, 8, 9),
};

/** Pieces that repeat themselves at distances both near and far. */
const data = fc
  .array(
    fc.tuple(
      fc.uint8Array({ minLength: 1, maxLength: 60 }),
      fc.integer({ min: 1, max: 40 }),
      fc.integer({ min: 0, max: 3 }),
    ),
    { maxLength: 25 },
  )
  .map((pieces) =>
    Buffer.concat(
      pieces.flatMap(([bytes, times, back], i) => [
        ...Array.from({ length: times }, () => bytes),
        pieces[Math.max(0, i - back)]![0],
      ]),
    ),
  );

describe('checkpoints', () => {
  test('at every size of span, down to one byte, give the stream back', () => {
    fc.assert(
      fc.property(data, fc.record(encoders), fc.integer({ min: 1, max: 400 }), (bytes, options, spanBytes) => {
        const compressed = gzipSync(bytes, options);
        const indexed = indexGzip(compressed, { spanBytes: Math.max(spanBytes, Math.ceil(bytes.length / 500)) });
        expect(indexed.output.equals(bytes)).toBe(true);
        checkSpans(compressed, indexed);
      }),
      { numRuns: 300 },
    );
  });

  test('at any cuts that are asked for', () => {
    fc.assert(
      fc.property(data, fc.record(encoders), fc.array(fc.nat(5000), { maxLength: 30 }), (bytes, options, offsets) => {
        const compressed = Buffer.concat([gzipSync(bytes, options), gzipSync(bytes, options)]);
        const cuts = Float64Array.from(new Set(offsets.filter((o) => o > 0).sort((a, b) => a - b)));
        const indexed = indexGzip(compressed, { cuts, step: 1 + (offsets[0] ?? 0) });
        expect(indexed.checkpoints.map((c) => c.layerOffset)).toEqual([...cuts].filter((c) => c < bytes.length * 2));
        checkSpans(compressed, indexed);
      }),
      { numRuns: 300 },
    );
  });

  test('are left out where a span would have fewer compressed bytes than it must, and the rest still gives the stream back', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(layerLike(40_000), Buffer.alloc(100_000), Buffer.alloc(10)),
        fc.record(encoders),
        fc.integer({ min: 300, max: 5000 }),
        fc.integer({ min: 1, max: 600 }),
        (bytes, options, spanBytes, minBytes) => {
          const compressed = Buffer.concat([gzipSync(bytes, options), gzipSync(bytes, options)]);
          const all = indexGzip(compressed, { spanBytes }).checkpoints;
          const indexed = indexGzip(compressed, { spanBytes, minBytes });
          const offsets = indexed.checkpoints.map((c) => c.layerOffset);
          const bits = [0, ...indexed.checkpoints.map((c) => c.bitOffset), compressed.length * 8];
          for (let i = 1; i < bits.length && offsets.length > 0; i++)
            expect(bits[i]! - bits[i - 1]!).toBeGreaterThanOrEqual(8 * minBytes);
          expect(all.map((c) => c.layerOffset)).toEqual(expect.arrayContaining(offsets));
          checkSpans(compressed, indexed);
        },
      ),
      { numRuns: 40 },
    );
  });

  test('are where they are whatever the pieces of input', () => {
    fc.assert(
      fc.property(data, fc.record(encoders), fc.integer({ min: 1, max: 50 }), (bytes, options, step) => {
        const compressed = gzipSync(bytes, options);
        expect(indexGzip(compressed, { spanBytes: 97, step })).toEqual(indexGzip(compressed, { spanBytes: 97 }));
      }),
      { numRuns: 100 },
    );
  });

  test('across the kernel buffers: a megabyte and a half, spans that do not divide them', () => {
    const bytes = layerLike(1_500_000, 5);
    const compressed = gzipSync(bytes);
    for (const spanBytes of [1009, 7919, 17389, 32768, 65536, 262144, 262145]) {
      const indexed = indexGzip(compressed, { spanBytes, step: 100_003 });
      expect(indexed.output.equals(bytes)).toBe(true);
      checkSpans(compressed, indexed);
    }
  });

  const told = ({ checkpoints, crc32s }: IndexedGzip): string =>
    JSON.stringify([
      crc32s,
      checkpoints.map((c) => ({
        ...c,
        header: Buffer.from(c.header).toString('hex'),
        window: Buffer.from(c.window).toString('hex'),
      })),
    ]);

  test('are the same in shared memory, with slots for input and buffers for output in turn', () => {
    const bytes = layerLike(900_000, 5);
    const compressed = gzipSync(bytes);
    for (const [spanBytes, outBytes, inBytes] of [
      [100_000, 40_000, 1000],
      [7919, 1009, 77],
      [262_144, 262_144, 65_536],
    ] as const) {
      const shape = { outBuffers: 3, outBytes, inSlots: 2, inBytes, sums: 0 };
      const indexed = indexGzip(compressed, { spanBytes, shape });
      expect(indexed.output.equals(bytes)).toBe(true);
      expect(told(indexed)).toBe(told(indexGzip(compressed, { spanBytes })));
    }
  });

  test('report each boundary at once, and the checkpoint within 32 KiB of it', () => {
    const bytes = layerLike(400_000);
    const boundaries: number[] = [];
    let produced = 0;
    let reported = 0;
    const indexer = new GzipIndexer(
      { spanBytes: 100_000 },
      {
        output: (view) => {
          produced += view.length;
        },
        boundary: (layerOffset) => {
          expect(layerOffset).toBe(produced);
          boundaries.push(layerOffset);
        },
        checkpoint: ({ layerOffset }) => {
          expect(produced - layerOffset).toBeLessThanOrEqual(32768);
          reported++;
        },
        member: () => {},
      },
    );
    indexer.push(gzipSync(bytes));
    indexer.finish();
    // The last one is the end of the output: a boundary, but no checkpoint.
    expect(boundaries).toEqual([100_000, 200_000, 300_000, 400_000]);
    expect(reported).toBe(3);
  });
});

describe('windows', () => {
  test('hold what the span refers to, and nothing else', () => {
    const unique = createHash('shake256', { outputLength: 20_000 }).digest();
    // The second span repeats bytes 5,000 to 5,100 of the first, then goes its own way.
    const bytes = Buffer.concat([unique, unique.subarray(5000, 5100), Buffer.alloc(5000, 0)]);
    const { checkpoints } = indexGzip(gzipSync(bytes, { level: 9 }), { spanBytes: 20_000 });
    expect(checkpoints.length).toBe(1);
    const window = Buffer.from(checkpoints[0]!.window);
    expect(window.length).toBe(15_000);
    expect(window.subarray(0, 100).equals(unique.subarray(5000, 5100))).toBe(true);
    expect(window.subarray(100).every((byte) => byte === 0)).toBe(true);
  });

  test('are empty where nothing is referred to, after a full flush or in stored and literal-only blocks', () => {
    const bytes = layerLike(200_000);
    for (const options of [{ level: 0 }, { strategy: constants.Z_HUFFMAN_ONLY }]) {
      const { checkpoints } = indexGzip(gzipSync(bytes, options), { spanBytes: 50_000 });
      expect(checkpoints.map((c) => c.window.length)).toEqual([0, 0, 0]);
    }
  });

  test('are small: a mean of at most 4 KB stored for layer-like data', () => {
    const { checkpoints } = indexGzip(gzipSync(layerLike(8_000_000)), { spanBytes: 1 << 20 });
    const stored = checkpoints.map((c) => encodeCheckpointState(c.header, c.window).stored.length);
    expect(stored.reduce((a, b) => a + b) / stored.length).toBeLessThan(4096);
  });
});

describe('checkpoint state', () => {
  test('decodes to what was encoded', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: 290 }),
        fc.uint8Array({ maxLength: 32768, size: 'max' }),
        (header, window) => {
          const decoded = decodeCheckpointState(encodeCheckpointState(header, window));
          expect(Buffer.from(header).equals(decoded.header)).toBe(true);
          expect(Buffer.from(window).equals(decoded.window)).toBe(true);
        },
      ),
      { numRuns: 50 },
    );
    expect(encodeCheckpointState(new Uint8Array(0), new Uint8Array(0))).toBe(NO_STATE);
    expect(decodeCheckpointState(NO_STATE)).toEqual({ header: new Uint8Array(0), window: new Uint8Array(0) });
  });

  test('is refused when it is another one than its digest names, however it is stored', () => {
    const [header, window] = [Uint8Array.of(0), layerLike(1000)];
    const honest = encodeCheckpointState(header, window);
    const forged = encodeCheckpointState(header, layerLike(1001).subarray(1));
    expect(() => decodeCheckpointState({ ...honest, stored: forged.stored })).toThrow('its SHA-256 differs');
    expect(() => decodeCheckpointState({ ...honest, stored: NO_STATE.stored })).toThrow('its SHA-256 differs');
    expect(() => decodeCheckpointState({ ...NO_STATE, stored: honest.stored })).toThrow('its SHA-256 differs');
    const again = deflateRawSync(inflateRawSync(honest.stored), { level: 0 });
    expect(Buffer.from(decodeCheckpointState({ ...honest, stored: again }).window).equals(window)).toBe(true);
  });

  test('is bounded when it is a bomb', () => {
    const bomb = encodeCheckpointState(Uint8Array.of(0), new Uint8Array(32768));
    expect(decodeCheckpointState(bomb).window.length).toBe(32768);
    const large = gzipSync(new Uint8Array(1 << 20), { level: 9 }).subarray(10, -8);
    expect(() => decodeCheckpointState({ ...bomb, stored: large })).toThrow(CheckpointStateError);
  });

  test('damaged anywhere, or with the wrong span, is refused or fails the CRC, and touches nothing else', () => {
    const bytes = layerLike(120_000);
    const compressed = gzipSync(bytes);
    const { checkpoints } = indexGzip(compressed, { spanBytes: 60_000 });
    const { bitOffset, header, window, layerOffset } = checkpoints[0]!;
    const span = compressed.subarray(bitOffset >> 3);
    const inflater = new SpanInflater();
    // The CRC-32, which is the right one only with the right bytes; or what was refused.
    const inflate = (state: CheckpointState): string | number => {
      const views: Uint8Array[] = [];
      try {
        const crc = inflater.inflate(span, bitOffset % 8, state, bytes.length - layerOffset, (v) =>
          views.push(v.slice()),
        );
        const right = Buffer.concat(views).equals(bytes.subarray(layerOffset));
        expect(right).toBe(crc === crc32(bytes.subarray(layerOffset)));
        return crc;
      } catch (error) {
        if (error instanceof FormatError) return error.message;
        throw error;
      }
    };
    const good = encodeCheckpointState(header, window);
    const sum = inflate(good);
    expect(typeof sum).toBe('number');
    for (let bit = 0; bit < header.length * 8; bit++) {
      const bad = header.slice();
      bad[bit >> 3]! ^= 1 << (bit & 7);
      inflate(encodeCheckpointState(bad, window));
    }
    for (let n = 1; n < header.length; n++)
      expect(inflate(encodeCheckpointState(header.subarray(0, n), window))).not.toBe(sum);
    for (let n = 0; n < good.stored.length; n++) {
      expect(inflate({ ...good, stored: good.stored.subarray(0, n) })).toMatch(/^checkpoint state/);
    }
    expect(inflate(encodeCheckpointState(header, new Uint8Array(0)))).not.toBe(sum);
    expect(inflate(good)).toBe(sum);
  });

  test('misuse throws', () => {
    expect(() => encodeCheckpointState(new Uint8Array(291), new Uint8Array(0))).toThrow(RangeError);
    expect(() => encodeCheckpointState(Uint8Array.of(0), new Uint8Array(32769))).toThrow(RangeError);
    expect(() => encodeCheckpointState(new Uint8Array(0), new Uint8Array(1))).toThrow(RangeError);
    expect(() => indexGzip(gzipSync('x'), { spanBytes: 0 })).toThrow(RangeError);
    expect(() => new SpanInflater().inflate(new Uint8Array(1), 0, NO_STATE, 0, () => {})).toThrow(RangeError);
  });
});

describe('SpanInflater', () => {
  test('says how much a span that is too short yields', () => {
    const member = gzipMember(gzipSync('hello').subarray(10, -8), Buffer.from('hello'));
    const inflater = new SpanInflater();
    expect(() => inflater.inflate(member, 0, NO_STATE, 6, () => {})).toThrow('it yields 5 bytes, 6 expected');
    expect(() => inflater.inflate(member.subarray(0, 12), 0, NO_STATE, 5, () => {})).toThrow(FormatError);
    expect(() => inflater.inflate(new Uint8Array(0), 0, NO_STATE, 5, () => {})).toThrow(FormatError);
  });

  test('starts afresh each time, even after an error', () => {
    const bytes = layerLike(50_000);
    const compressed = gzipSync(bytes);
    const inflater = new SpanInflater();
    const first = inflater.inflate(compressed, 0, NO_STATE, bytes.length, () => {});
    expect(() => inflater.inflate(compressed.subarray(0, 2000), 0, NO_STATE, bytes.length, () => {})).toThrow();
    expect(inflater.inflate(compressed, 0, NO_STATE, bytes.length, () => {})).toBe(first);
  });
});
