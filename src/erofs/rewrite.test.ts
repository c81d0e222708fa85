import { describe, expect, test } from 'vitest';
import { CASES } from '../../test/e2e/tree-cases.js';
import { buildErofs } from '../../test/support/planes.js';
import * as t from '../../test/support/tar.js';
import { crc32c, FormatError } from '../bytes/index.js';
import { FileFinder } from './file-finder.js';
import { ErofsReader } from './reader.js';
import { layerFileName, rewriteErofs, writeLayerFiles } from './rewrite.js';
import { TreeListing } from './tree-listing.js';

const sizes = (layers: readonly Uint8Array[]): number[] => layers.map((layer) => layer.length);

/** Behind the superblock and the devices. */
function inodesOf(image: Uint8Array, devices: number): Uint8Array {
  return image.subarray(1024 + 128 + 128 * devices);
}

/** The image with some bytes replaced, and a superblock that says so. */
function damaged(image: Uint8Array, change: (bytes: Uint8Array, view: DataView) => void): Uint8Array {
  const bytes = image.slice();
  change(bytes, new DataView(bytes.buffer));
  bytes.fill(0, 1028, 1032);
  new DataView(bytes.buffer).setUint32(1028, crc32c(bytes.subarray(1024, 1536)), true);
  return bytes;
}

describe('a tree that our writer wrote', () => {
  test.each(CASES)('is written again as it was: $name', ({ layers }) => {
    const { image, placement, stats } = buildErofs(layers);
    if (placement !== null) return;
    const again = rewriteErofs(image, sizes(layers));
    const [before, after] = [new ErofsReader(image), new ErofsReader(again)];
    expect(after.inodeCount).toBe(stats.inodes);
    expect(after.deviceBytes.slice(0, -1)).toEqual(before.deviceBytes);
    // With the same devices, byte by byte: one more slot moves every inode by 128 bytes, which a third pass does not.
    const third = rewriteErofs(again, [...sizes(layers), 512]);
    const fourth = rewriteErofs(third, [...sizes(layers), 512]);
    expect(Buffer.from(inodesOf(fourth, layers.length + 2)).equals(inodesOf(third, layers.length + 2))).toBe(true);
  });

  test('of another block size is written with blocks of 512 bytes', () => {
    const layers = [t.tar(t.dir('a'), t.file('a/f', 'x'.repeat(9000)), t.symlink('s', 'a'))];
    const { image } = buildErofs(layers, { blockSize: 4096 });
    const reader = new ErofsReader(rewriteErofs(buildErofs(layers).image, sizes(layers)));
    expect(reader.blockSize).toBe(512);
    expect(new ErofsReader(image).blockSize).toBe(4096);
  });
});

describe('a tree that our writer cannot have made is refused', () => {
  const layers = [
    t.tar(t.dir('./'), t.dir('d'), t.file('d/f', 'x'.repeat(5000)), t.file('g', 'y'), t.symlink('s', 'target')),
  ];
  const { image } = buildErofs(layers);
  const reader = new ErofsReader(image);
  const root = new TreeListing(reader).list('/')!;
  const at = (name: string): number => root.get(name)! * 32;
  const dirent = (name: string): number => {
    let found = -1;
    for (let start = 0; start < image.length && found < 0; start++) {
      const nid = root.get(name)!;
      const view = new DataView(image.buffer);
      if (start + 12 <= image.length && view.getUint32(start, true) === nid && view.getUint32(start + 4, true) === 0) {
        if (image[start + 11] === 0 && image[start + 10]! >= 1 && image[start + 10]! <= 7) found = start;
      }
    }
    return found;
  };
  const refused = (why: RegExp, change: (bytes: Uint8Array, view: DataView) => void): void => {
    let error: unknown;
    try {
      rewriteErofs(damaged(image, change), sizes(layers));
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(FormatError);
    expect((error as Error).message).toMatch(why);
  };

  test('a count of links that is not that of its names', () => {
    refused(/links/, (_, view) => view.setUint16(at('g') + 6, 2, true));
  });

  test('a directory with two names, which may be a loop', () => {
    refused(/a directory with two names|links/, (_, view) => view.setUint32(dirent('d'), reader.rootNid, true));
  });

  test('an entry of another type than its inode', () => {
    refused(/type 2 in its directory/, (bytes) => {
      bytes[dirent('g') + 10] = 2;
    });
  });

  test('data beyond the end of its layer', () => {
    expect(() => rewriteErofs(image, [512])).toThrow(FormatError);
  });

  test('a name with a slash, and names that are not sorted', () => {
    const names = Buffer.from(image).indexOf('dgs', dirent('g'));
    refused(/a name with a slash/, (bytes) => {
      bytes[names] = 0x2f;
    });
    refused(/names are not sorted/, (bytes) => {
      bytes[names + 1] = 0x61;
    });
  });
});

test('layers as files: names in order, sizes exact, and an empty file at the end', () => {
  const reader = new ErofsReader(writeLayerFiles([1024, 5120, 0]));
  const names = [...new TreeListing(reader).list('/')!.keys()].filter((name) => !name.startsWith('.'));
  expect(names).toEqual([0, 1, 2, 3].map(layerFileName));
  const pieces: number[][] = [];
  const nid = reader.lookupPath(Buffer.from(layerFileName(1)));
  reader.mapRange(nid, 100, 10_000, (...piece) => pieces.push(piece));
  expect(pieces).toEqual([[1, 100, 5020]]);
});

test('the inverse map finds the file of every byte, and none for headers', () => {
  const layers = [t.tar(t.dir('a'), ...Array.from({ length: 50 }, (_, i) => t.file(`a/f${i}`, 'z'.repeat(i * 300))))];
  const reader = new ErofsReader(buildErofs(layers).image);
  const steps = FileFinder.build(reader);
  let step = steps.next();
  while (!step.done) step = steps.next();
  const index = step.value!;
  for (let i = 1; i < 50; i++) {
    const nid = reader.lookupPath(Buffer.from(`a/f${i}`));
    reader.mapRange(nid, 0, i * 300, (layer, start, length) => {
      for (const offset of [start, start + length - 1]) expect(index.at(layer, offset)).toEqual({ nid, start, length });
      expect(index.at(layer, start - 1)).toBeNull();
    });
  }
  expect(index.at(0, layers[0]!.length - 1)).toBeNull();
  expect(index.at(1, 0)).toBeNull();
});
