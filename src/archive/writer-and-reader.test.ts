import { createHash } from 'node:crypto';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bytesInput, digestOf, imageMeta, layerContents, smallArchive } from '../../test/support/archives.js';
import { layerLike } from '../../test/support/gzip.js';
import { Cursor, FormatError } from '../bytes/index.js';
import { decodeCheckpointState, encodeCheckpointState } from '../gzip/index.js';
import { ByteWriter } from './encode.js';
import {
  HEADER,
  MAX_SPAN_OUTPUT,
  MAX_SPAN_OVERHEAD,
  MIN_SPAN_BYTES,
  SECTION_ENTRY_SIZE,
  SECTION_NAMES,
} from './format.js';
import {
  type Archive,
  type ArchiveContents,
  deflateSection,
  encodeSpanTable,
  type LayerContents,
  type LayerMeta,
  openArchive,
  spanTableDigest,
  stateDigest,
  writeArchive,
} from './index.js';

function bytesOf(contents: Parameters<typeof writeArchive>[0]): Uint8Array {
  return new Uint8Array(Buffer.concat(writeArchive(contents)));
}

/** Opens an archive and checks what is otherwise checked only where it is used. */
function openWholly(bytes: Uint8Array): Archive {
  const archive = openArchive(bytesInput(bytes));
  archive.verify();
  archive.hashes();
  archive.section('entries');
  archive.section('scan');
  return archive;
}

function failure(bytes: Uint8Array): FormatError {
  try {
    openWholly(bytes);
  } catch (error) {
    expect(error).toBeInstanceOf(FormatError);
    return error as FormatError;
  }
  throw new Error('opened');
}

test('a tree that is read at its first use is checked then, and each time until it is whole', () => {
  const bytes = bytesOf(smallArchive());
  const { tree, treeBytes, sections } = openArchive(bytesInput(bytes));
  expect(openArchive(bytesInput(bytes), { treeOnUse: true })).toMatchObject({ tree, treeBytes });
  const { offset } = sections.find(({ name }) => name === 'tree')!;
  bytes[offset]! ^= 1;
  expect(() => openArchive(bytesInput(bytes))).toThrow(FormatError);
  const archive = openArchive(bytesInput(bytes), { treeOnUse: true });
  expect(() => archive.tree).toThrow(/section tree.*sha256 differs/);
  expect(() => archive.tree).toThrow(FormatError);
  bytes[offset]! ^= 1;
  expect(archive.tree).toEqual(tree);
});

test('references that are read at their first use are checked then', () => {
  const bytes = bytesOf(smallArchive());
  const { references, sections } = openArchive(bytesInput(bytes));
  expect(openArchive(bytesInput(bytes), { referencesOnUse: true }).references).toEqual(references);
  const { offset } = sections.find(({ name }) => name === 'references')!;
  bytes[offset]! ^= 1;
  expect(() => openArchive(bytesInput(bytes))).toThrow(FormatError);
  const archive = openArchive(bytesInput(bytes), { referencesOnUse: true });
  expect(() => archive.references).toThrow(/section references.*sha256 differs/);
  bytes[offset]! ^= 1;
  expect(archive.references).toEqual(references);
  const without = bytesOf({ ...smallArchive(), references: null });
  expect(openArchive(bytesInput(without), { referencesOnUse: true }).references).toBeNull();
});

/** Recomputes the header's digest after a change to the section table: what a forger would do. */
function reseal(bytes: Uint8Array): Uint8Array {
  const count = new DataView(bytes.buffer).getUint32(HEADER.sectionCount, true);
  const hash = createHash('sha256').update(bytes.subarray(0, HEADER.sha256));
  bytes.set(
    hash.update(bytes.subarray(HEADER.table, HEADER.table + SECTION_ENTRY_SIZE * count)).digest(),
    HEADER.sha256,
  );
  return bytes;
}

describe('archive round trip', () => {
  test('everything comes back, and the tree in shared memory', () => {
    const contents = smallArchive();
    const archive = openWholly(bytesOf(contents));
    expect(archive.image).toEqual(contents.image);
    expect(Buffer.compare(archive.tree, contents.tree)).toBe(0);
    expect(archive.tree.buffer).toBeInstanceOf(SharedArrayBuffer);
    expect(archive.layers[0]!.table).toBe(archive.layers[2]!.table);
    contents.layers.forEach((layer, i) => {
      const { table } = archive.layers[i]!;
      expect(table).toMatchObject({ kind: layer.spans.kind, count: layer.spans.count });
      expect([...table.layerOffset]).toEqual([...layer.spans.layerOffset]);
      expect([...table.bitOffset]).toEqual([...layer.spans.bitOffset]);
      expect(table.crc32).toEqual(layer.spans.crc32);
      expect(table.sha256).toEqual(layer.spans.sha256);
      layer.states.forEach((state, span) => {
        expect(archive.checkpointState(i, span)).toEqual(state.length === 0 ? null : state);
      });
    });
    expect(archive.hashes()).toEqual(contents.hashes);
    expect(archive.profile).toEqual(contents.profile);
    expect(archive.references).toEqual(contents.references);
    expect([...archive.placement!.fileOffset]).toEqual([...contents.placement!.fileOffset]);
    expect([...archive.placement!.layerOffset]).toEqual([...contents.placement!.layerOffset]);
    expect(() => archive.verify()).not.toThrow();
  });

  test('an image without layers', () => {
    const archive = openWholly(bytesOf({ image: imageMeta([]), tree: new Uint8Array(0), layers: [] }));
    expect(archive.layers).toEqual([]);
    expect(archive.placement).toBeNull();
    expect(archive.hashes()).toBeNull();
  });

  const identityOf = (contents: Parameters<typeof writeArchive>[0]): string =>
    openArchive(bytesInput(bytesOf(contents))).identity;

  test('the same contents give the same bytes and identity', () => {
    expect(Buffer.compare(bytesOf(smallArchive()), bytesOf(smallArchive()))).toBe(0);
    expect(identityOf(smallArchive())).toBe(identityOf(smallArchive()));
  });

  /** The contents with span 1 of the first layer changed. */
  function withSpan(change: (spans: LayerContents['spans']) => Partial<LayerContents['spans']>): ArchiveContents {
    const base = smallArchive();
    const [gzip, tar] = base.layers;
    const changed = { ...gzip!, spans: { ...gzip!.spans, ...change(gzip!.spans) } };
    return { ...base, layers: [changed, tar!, changed] };
  }
  const flipped = (bytes: Uint8Array): Uint8Array => bytes.map((byte, i) => (i === 40 ? byte ^ 1 : byte));

  test.each<[string, ArchiveContents]>([
    ['the tree', { ...smallArchive(), tree: new Uint8Array(4096) }],
    ['the placement', { ...smallArchive(), placement: null }],
    ['where a span begins', withSpan((s) => ({ layerOffset: s.layerOffset.map((at, i) => (i === 1 ? at + 1 : at)) }))],
    [
      'the bit at which a span begins',
      withSpan((s) => ({ bitOffset: s.bitOffset.map((at, i) => (i === 1 ? at + 1 : at)) })),
    ],
    ["a span's compressed bytes", withSpan((s) => ({ sha256: flipped(s.sha256) }))],
    ["a span's checkpoint state", withSpan((s) => ({ stateSha256: flipped(s.stateSha256) }))],
    ["a layer's digest", withLayer({ digest: digestOf('another') })],
    ["a layer's size", withLayer({ size: 2_000_000 })],
  ])('the identity covers %s', (_, changed) => {
    expect(identityOf(changed)).not.toBe(identityOf(smallArchive()));
  });

  function withLayer(change: Partial<LayerMeta>): ArchiveContents {
    const base = smallArchive();
    const [first, ...rest] = base.image.layers;
    return { ...base, image: { ...base.image, layers: [{ ...first!, ...change }, ...rest] } };
  }

  test('the identity leaves out hints, file hashes, and how checkpoint states are deflated', () => {
    const base = smallArchive();
    const restored = (state: Uint8Array): Uint8Array =>
      state.length === 0 ? state : deflateRawSync(inflateRawSync(state), { level: 0 });
    const layers = base.layers.map((layer) => ({ ...layer, states: layer.states.map(restored) }));
    expect(layers[0]!.states[1]).not.toEqual(base.layers[0]!.states[1]);
    const other = { ...base, layers, profile: null, references: null, hashes: null };
    expect(identityOf(other)).toBe(identityOf(base));
  });

  test('a span table has another digest when any column differs', () => {
    const { spans } = smallArchive().layers[0]!;
    const digests = [
      spans,
      { ...spans, crc32: spans.crc32.map((crc) => crc ^ 1) },
      { ...spans, sha256: flipped(spans.sha256) },
      { ...spans, stateSha256: flipped(spans.stateSha256) },
    ].map(spanTableDigest);
    expect(new Set(digests).size).toBe(4);
  });

  test('any span table survives, and its encoding is canonical', () => {
    const output = fc.integer({ min: 1, max: MAX_SPAN_OUTPUT });
    const bits = fc.integer({ min: 8 * MIN_SPAN_BYTES, max: 8 * MAX_SPAN_OVERHEAD });
    const spans = fc.array(fc.tuple(output, bits), { maxLength: 60 });
    fc.assert(
      fc.property(spans, fc.integer({ min: 0, max: 1000 }), (list, seed) => {
        const layer = layerContents('gzip', list, seed);
        const archive = openWholly(bytesOf({ image: imageMeta([layer]), tree: new Uint8Array(1), layers: [layer] }));
        expect(Buffer.compare(encodeSpanTable(archive.layers[0]!.table), encodeSpanTable(layer.spans))).toBe(0);
      }),
    );
  });

  test('varints: any safe integer, one encoding each', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => {
        const out = new ByteWriter();
        out.varint(value);
        expect(new Cursor(out.finish(), 'x').varint()).toBe(value);
      }),
    );
    expect(() => new Cursor(Uint8Array.of(0x80, 0), 'x').varint()).toThrow(/shortest/);
    expect(() => new Cursor(new Uint8Array(9).fill(0xff), 'x').varint()).toThrow(/2\^53/);
    for (const cut of [0, 1, 2]) {
      const bytes = new Uint8Array(cut).fill(0x80);
      expect(() => new Cursor(bytes, 'x').varint()).toThrow(`x at byte ${cut}: 1 bytes expected, 0 left`);
    }
  });
});

describe('a forged checkpoint state in an archive whose sections are all sealed', () => {
  const base = smallArchive();
  const [gzip, tar] = base.layers;
  const forged = encodeCheckpointState(Uint8Array.of(0), new Uint8Array(6).fill(99)).stored;
  const layer = { ...gzip!, states: gzip!.states.map((state, i) => (i === 1 ? forged : state)) };
  const archive = openArchive(bytesInput(bytesOf({ ...base, layers: [layer, tar!, layer] })));

  test('leaves identity and span table as they are, and is refused where it is used', () => {
    const honest = openArchive(bytesInput(bytesOf(base)));
    expect(archive.identity).toBe(honest.identity);
    const { table } = archive.layers[0]!;
    const stored = archive.checkpointState(0, 1)!;
    expect(() => decodeCheckpointState({ stored, sha256: stateDigest(table, 1) })).toThrow('its SHA-256 differs');
  });

  test('is found by verify', () => {
    expect(() => archive.verify()).toThrow(/section windows at byte \d+: checkpoint state: its SHA-256 differs/);
  });
});

describe('altered archives', () => {
  const stored = [deflateRawSync(Buffer.alloc(200))];
  const parts = {
    entries: { raw: Buffer.alloc(200), stored },
    scan: { raw: Buffer.from('a scan'), stored: [deflateRawSync('a scan')] },
  };
  const good = bytesOf({ ...smallArchive(), ...parts });
  const { sections } = openArchive(bytesInput(good));
  const sectionAt = (offset: number) =>
    sections.find((s) => offset >= s.offset && offset < s.offset + s.storedLength)?.name ?? 'header';

  test('one changed byte anywhere is refused, naming file and section', () => {
    for (let at = 0; at < good.length; at++) {
      const bad = good.slice();
      bad[at]! ^= 1 << (at % 8);
      expect(failure(bad).message).toContain(
        sectionAt(at) === 'header' ? 'test.clip: header' : `test.clip: section ${sectionAt(at)}`,
      );
    }
  });

  test('truncation at every byte, and a byte too many, are refused', () => {
    for (let length = 0; length < good.length; length++)
      expect(failure(good.slice(0, length))).toMatchObject({
        what: 'test.clip: header',
        hint: expect.stringMatching(/clipctl index/),
      });
    expect(failure(Buffer.concat([good, Buffer.alloc(1)])).message).toContain('1 bytes after the last section');
  });

  test('version 1 and versions to come are told apart', () => {
    const older = good.slice();
    older[9] = 1;
    expect(failure(older).hint).toMatch(/predecessor/);
    older[9] = 2;
    expect(failure(older)).toMatchObject({
      detail: 'version 2, 3 expected',
      hint: expect.stringMatching(/older clip.*clipctl index/),
    });
    older[9] = 4;
    expect(failure(older).hint).toMatch(/newer/);
  });

  const forge = (change: (table: DataView, entry: (name: string) => number) => void): FormatError => {
    const bytes = good.slice();
    change(
      new DataView(bytes.buffer),
      (name) => HEADER.table + SECTION_ENTRY_SIZE * sections.findIndex((s) => s.name === name),
    );
    return failure(reseal(bytes));
  };

  test.each<[string, RegExp, Parameters<typeof forge>[0]]>([
    ['unknown kind', /unknown section kind 99/, (v, e) => v.setUint32(e('profile'), 99, true)],
    ['kinds out of order', /out of order/, (v, e) => v.setUint32(e('profile'), 2, true)],
    ['unknown compression', /unknown compression 7/, (v, e) => v.setUint32(e('tree') + 4, 7, true)],
    ['overlap', /section tree at 144/, (v, e) => v.setBigUint64(e('tree') + 8, 144n, true)],
    ['beyond the end', /truncated/, (v, e) => v.setBigUint64(e('tree') + 16, 1n << 40n, true)],
    ['beyond 2^53', /2\^53/, (v, e) => v.setBigUint64(e('tree') + 16, 1n << 60n, true)],
    [
      'an impossible ratio',
      /4294967296 raw bytes are too many/,
      (v, e) => v.setBigUint64(e('tree') + 24, 1n << 32n, true),
    ],
    ['wrong raw length', /inflate/, (v, e) => v.setBigUint64(e('tree') + 24, 4095n, true)],
    ['wrong raw digest', /raw bytes differs/, (v, e) => v.setUint8(e('tree') + 64, 0)],
    ['two digests of an uncompressed section', /its two digests differ/, (v, e) => v.setUint8(e('windows') + 64, 0)],
    ['too many sections', /255 sections/, (v) => v.setUint32(HEADER.sectionCount, 255, true)],
  ])('forged table: %s', (_, message, change) => {
    expect(forge(change).message).toMatch(message);
  });

  test('a missing section', () => {
    const bytes = bytesOf({ image: imageMeta([]), tree: new Uint8Array(9), layers: [] });
    new DataView(bytes.buffer).setUint32(HEADER.table + 4 * SECTION_ENTRY_SIZE, 6, true); // windows called hashes
    expect(failure(reseal(bytes)).message).toMatch(/section windows is missing/);
  });

  test('there are as many names as sections here: the table above covers all', () => {
    expect(sections.map((s) => s.name)).toEqual(SECTION_NAMES);
  });

  const withFirst = ({ image }: ArchiveContents, change: Partial<LayerMeta>): ArchiveContents['image'] => ({
    ...image,
    layers: image.layers.map((layer, i) => (i === 0 ? { ...layer, ...change } : layer)),
  });

  test.each<[string, RegExp, (c: ReturnType<typeof smallArchive>) => object]>([
    [
      'a checkpoint state where the digest says that there is none',
      /but its digest says otherwise/,
      (c) => ({
        layers: c.layers.map((l) => ({
          ...l,
          states: l.states.map((s, i) => (i === 0 ? c.layers[0]!.states[1]! : s)),
        })),
      }),
    ],
    [
      'a missing checkpoint state',
      /a checkpoint state of 0 bytes, but its digest says otherwise/,
      (c) => ({ layers: c.layers.map((l) => ({ ...l, states: l.states.map(() => new Uint8Array(0)) })) }),
    ],
    [
      'a span of one byte',
      /span 1 has 1 compressed bytes, at least 512 expected/,
      (c) => ({
        layers: [
          layerContents('gzip', [
            [5000, 40_000],
            [1, 8],
            [5000, 40_000],
          ]),
          ...c.layers.slice(1),
        ],
        image: withFirst(c, { uncompressedSize: 10_001 }),
      }),
    ],
    [
      'a short last span',
      /span 1 has 511 compressed bytes/,
      (c) => ({
        layers: [
          layerContents('gzip', [
            [5000, 40_000],
            [511, 511 * 8],
          ]),
          ...c.layers.slice(1),
        ],
        image: withFirst(c, { uncompressedSize: 5511, size: 5511 }),
      }),
    ],
    [
      'a short span that is not all of its blob',
      /span 0 has 100 compressed bytes/,
      (c) => ({
        layers: [layerContents('gzip', [[5000, 800]]), ...c.layers.slice(1)],
        image: withFirst(c, { uncompressedSize: 5000, size: 101 }),
      }),
    ],
    [
      'a span of a gigabyte',
      /span 0 yields 1073741824 bytes, at most 134217728 allowed/,
      (c) => ({
        layers: [layerContents('gzip', [[2 ** 30, 2 ** 23]]), ...c.layers.slice(1)],
        image: withFirst(c, { uncompressedSize: 2 ** 30 }),
      }),
    ],
    [
      'a span of many compressed bytes and little output',
      /span 0 has 1048786 compressed bytes, at most 1048776 allowed/,
      (c) => ({
        layers: [layerContents('gzip', [[100, 8 * 1_048_786]]), ...c.layers.slice(1)],
        image: withFirst(c, { uncompressedSize: 100, size: 1_048_786 }),
      }),
    ],
    [
      'more spans than a server has memory for',
      /more than 262144 spans/,
      () => {
        const many = layerContents(
          'tar',
          Array.from({ length: 70 }, () => [512, 4096] as const),
        );
        const layers = Array.from({ length: 4000 }, () => many);
        return { layers, image: imageMeta(layers), placement: null, profile: null };
      },
    ],
    [
      'layer sizes that differ',
      /spans of layer .* end at/,
      (c) => ({ image: { ...c.image, layers: c.image.layers.map((l) => ({ ...l, uncompressedSize: 5 })) } }),
    ],
    [
      'spans beyond the blob',
      /beyond its/,
      (c) => ({ image: { ...c.image, layers: c.image.layers.map((l) => ({ ...l, size: 5 })) } }),
    ],
    [
      'an extent outside its layer',
      /beyond its layer/,
      (c) => ({ placement: { ...c.placement, length: Float64Array.of(1, 10_241) } }),
    ],
    ['overlapping extents', /overlaps/, (c) => ({ placement: { ...c.placement, fileOffset: Float64Array.of(0, 50) } })],
    [
      'a profile of spans there are not',
      /span 3 of 3/,
      (c) => ({ profile: { ...c.profile, span: Uint32Array.of(3, 0, 1) } }),
    ],
    [
      'a reference to a file there is not',
      /reference to file 3 of 3/,
      (c) => ({ references: { ...c.references, target: Uint32Array.of(2, 1, 0, 3) } }),
    ],
    [
      'more profile entries than spans',
      /1000000 profile entries, but only \d spans/,
      (c) => ({ profile: { ...c.profile, layer: new Uint32Array(1e6), span: new Uint32Array(1e6) } }),
    ],
    [
      'references of more files than the tree has',
      /100000 files with references, but only room for/,
      (c) => ({
        references: {
          ...c.references,
          count: 100_000,
          nid: Float64Array.from({ length: 100_000 }, (_, i) => i + 1),
          firstTarget: new Uint32Array(100_001),
          target: new Uint32Array(0),
          firstRange: new Uint32Array(100_001),
          range: new Uint32Array(0),
        },
      }),
    ],
    ['a registry that is no host', /registry "h\/x" is no host/, (c) => ({ image: { ...c.image, registry: 'h/x' } })],
    ['a repository that leads out', /"a\/\.\.\/b" is no/, (c) => ({ image: { ...c.image, repository: 'a/../b' } })],
    ['a digest that is none', /manifestDigest/, (c) => ({ image: { ...c.image, manifestDigest: 'md5:1' } })],
  ])('well-sealed contradictions: %s', (_, message, change) => {
    const contents = smallArchive();
    expect(failure(bytesOf({ ...contents, ...change(contents) })).message).toMatch(message);
  });
});

describe('a section that deflates better than readers believe', () => {
  test('is stored as it is, so that every archive that is written can be read', () => {
    const tree = new Uint8Array(3 << 20);
    const archive = openWholly(bytesOf({ ...smallArchive(), tree }));
    expect(archive.sections.find(({ name }) => name === 'tree')).toMatchObject({
      compression: 'none',
      storedLength: tree.length,
    });
    expect(Buffer.compare(archive.tree, tree)).toBe(0);
    expect(archive.identity).toBe(openWholly(bytesOf({ ...smallArchive(), tree })).identity);
  });
});

describe('a tree deflated in stretches', () => {
  test.each([0, 1, 3, 5, 4096, 300_001])(
    'of %i bytes is one deflate stream, the same on other threads',
    async (length) => {
      const tree = layerLike(length);
      const stored = Buffer.concat(await deflateSection(tree));
      expect(inflateRawSync(stored).equals(tree)).toBe(true);
      const contents = smallArchive();
      const again = bytesOf({ ...contents, tree });
      expect(Buffer.from(again).includes(stored)).toBe(true);
      expect(bytesOf({ ...contents, tree, storedTree: [stored] })).toEqual(again);
    },
  );
});
