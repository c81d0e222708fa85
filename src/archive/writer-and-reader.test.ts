import { createHash } from 'node:crypto';
import { inflateRawSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bytesInput, imageMeta, layerContents, smallArchive } from '../../test/support/archives.js';
import { layerLike } from '../../test/support/gzip.js';
import { Cursor, FormatError } from '../bytes/index.js';
import { ByteWriter, readVarint } from './encode.js';
import { HEADER, SECTION_ENTRY_SIZE, SECTION_NAMES } from './format.js';
import { type Archive, deflateTree, encodeSpanTable, openArchive, writeArchive } from './index.js';

function bytesOf(contents: Parameters<typeof writeArchive>[0]): Uint8Array {
  return new Uint8Array(Buffer.concat(writeArchive(contents)));
}

/** Opens and touches everything a reader may: what is checked only at use is used. */
function openWholly(bytes: Uint8Array): Archive {
  const archive = openArchive(bytesInput(bytes));
  archive.layers.forEach(({ table }, layer) => {
    for (let span = 0; span < table.count; span++) archive.checkpointState(layer, span);
  });
  archive.hashes();
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

  test('the same contents give the same bytes and identity; another tree another identity; other windows the same', () => {
    const one = openArchive(bytesInput(bytesOf(smallArchive())));
    expect(Buffer.compare(bytesOf(smallArchive()), bytesOf(smallArchive()))).toBe(0);
    const changed = { ...smallArchive(), tree: new Uint8Array(4096) };
    expect(openArchive(bytesInput(bytesOf(changed))).identity).not.toBe(one.identity);
    const base = smallArchive();
    const layers = base.layers.map((l) => ({
      ...l,
      states: l.states.map((s) => new Uint8Array(s.length && s.length + 1)),
    }));
    expect(openArchive(bytesInput(bytesOf({ ...base, layers }))).identity).toBe(one.identity);
  });

  test('any span table survives, and its encoding is canonical', () => {
    const spans = fc.array(fc.tuple(fc.integer({ min: 1, max: 2 ** 40 }), fc.integer({ min: 0, max: 2 ** 42 })), {
      maxLength: 60,
    });
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
        expect(readVarint(new Cursor(out.finish(), 'x'))).toBe(value);
      }),
    );
    expect(() => readVarint(new Cursor(Uint8Array.of(0x80, 0), 'x'))).toThrow(/shortest/);
    expect(() => readVarint(new Cursor(new Uint8Array(9).fill(0xff), 'x'))).toThrow(/2\^53/);
  });
});

describe('altered archives', () => {
  const good = bytesOf(smallArchive());
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
    older[9] = 3;
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
    ['impossible ratio', /cannot come from/, (v, e) => v.setBigUint64(e('tree') + 24, 1n << 32n, true)],
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

  test.each<[string, RegExp, (c: ReturnType<typeof smallArchive>) => object]>([
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
    ['a digest that is none', /manifestDigest/, (c) => ({ image: { ...c.image, manifestDigest: 'md5:1' } })],
  ])('well-sealed contradictions: %s', (_, message, change) => {
    const contents = smallArchive();
    expect(failure(bytesOf({ ...contents, ...change(contents) })).message).toMatch(message);
  });
});

describe('a tree deflated in stretches', () => {
  test.each([0, 1, 3, 5, 4096, 300_001])(
    'of %i bytes is one deflate stream, the same on other threads',
    async (length) => {
      const tree = layerLike(length);
      const stored = Buffer.concat(await deflateTree(tree));
      expect(inflateRawSync(stored).equals(tree)).toBe(true);
      const contents = smallArchive();
      const again = bytesOf({ ...contents, tree });
      expect(Buffer.from(again).includes(stored)).toBe(true);
      expect(bytesOf({ ...contents, tree, storedTree: [stored] })).toEqual(again);
    },
  );
});
