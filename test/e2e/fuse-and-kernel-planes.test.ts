import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterEach, describe, expect, test } from 'vitest';
import { rewriteErofs, writeErofs } from '../../src/erofs/index.js';
import { mountErofs, unmount } from '../../src/linux/index.js';
import { EntryColumns, TarParser } from '../../src/tar/index.js';
import { TreeBuilder } from '../../src/tree/index.js';
import { compareTrees, snapshotTree } from '../support/compare.js';
import { FusePlane } from '../support/fuse-plane.js';
import { LEGACY } from '../support/legacy.js';
import { buildErofs, kernelPlane, umociTree, withKernelMount } from '../support/planes.js';
import * as t from '../support/tar.js';
import { CASES } from './tree-cases.js';

let plane: FusePlane | null = null;
afterEach(async () => {
  await plane?.close();
  plane = null;
});

async function fuseTree(layers: readonly Uint8Array[]): Promise<ReturnType<typeof snapshotTree>> {
  plane = await new FusePlane(layers).mount();
  const seen = snapshotTree(plane.mountPoint);
  expect(plane.faults).toEqual([]);
  return seen;
}

describe('both planes show the same', () => {
  test.each(CASES)('$name', async ({ layers }) => {
    expect(compareTrees(await fuseTree(layers), kernelPlane(layers))).toEqual([]);
  });

  test('127 layers', async () => {
    const layers = Array.from({ length: 127 }, (_, i) =>
      t.tar(t.dir('./'), t.file(`f${i}`, `layer ${i}`), t.whiteout(`f${i - 3}`)),
    );
    expect(compareTrees(await fuseTree(layers), kernelPlane(layers))).toEqual([]);
    expect(readFileSync(join(plane!.mountPoint, 'f126'), 'utf8')).toBe('layer 126');
  });
});

describe('a tree that was read and written again shows the same', () => {
  test.each(CASES)('$name', ({ layers }) => {
    const sizes = layers.map((layer) => layer.length);
    const again = rewriteErofs(buildErofs(layers).image, sizes);
    expect(compareTrees(withKernelMount(layers, snapshotTree, again), kernelPlane(layers))).toEqual([]);
  });
});

describe('numbers', () => {
  const layers = [
    t.tar(t.dir('./'), t.dir('d'), t.file('d/f', 'x'.repeat(1000)), t.hardLink('h', 'd/f'), t.symlink('s', 'd')),
  ];

  test('inode numbers are the same in both planes, and always the same', async () => {
    const paths = ['d', 'd/f', 'h', 's'];
    const numbers = (mountPoint: string): number[] => paths.map((path) => lstatSync(join(mountPoint, path)).ino);
    const kernel = withKernelMount(layers, numbers);
    plane = await new FusePlane(layers).mount();
    expect(numbers(plane.mountPoint)).toEqual(kernel);
    expect(kernel[1]).toBe(kernel[2]);
    expect(new Set(kernel).size).toBe(3);
  });

  test('st_blocks are in units of 512 bytes', async () => {
    plane = await new FusePlane(layers).mount();
    expect(lstatSync(join(plane.mountPoint, 'd/f')).blocks).toBe(2);
    expect(withKernelMount(layers, (mountPoint) => lstatSync(join(mountPoint, 'd/f')).blocks)).toBe(2);
  });

  test('a file over 4 GiB ends where it should', () => {
    const size = 5 * 2 ** 30 + 7;
    const directory = mkdtempSync(join(tmpdir(), 'clip-big-'));
    try {
      const layer = join(directory, 'layer');
      const head = Buffer.concat([t.file('before', 'b'), t.header({ name: 'big', size, mtime: 1 })]);
      const tail = Buffer.concat([
        Buffer.from('the end'),
        new Uint8Array(505),
        t.file('after', 'a'),
        new Uint8Array(1024),
      ]);
      writeFileSync(layer, head);
      truncateSync(layer, head.length + size - 7);
      appendFileSync(layer, tail);
      const entries = new EntryColumns();
      const parser = new TarParser({ entries });
      parser.push(head);
      const zeros = new Uint8Array(1 << 20);
      for (let left = size - 7; left > 0; left -= zeros.length)
        parser.push(zeros.subarray(0, Math.min(left, zeros.length)));
      parser.push(tail);
      parser.finish();
      const builder = new TreeBuilder();
      builder.applyLayer(0, entries);
      const primary = join(directory, 'primary');
      writeFileSync(primary, writeErofs(builder.finish(), [{ tag: '', blocks: parser.position / 512 }]).image);
      const mountPoint = join(directory, 'mnt');
      mkdirSync(mountPoint);
      mountErofs(primary, [layer], mountPoint);
      try {
        expect(lstatSync(join(mountPoint, 'big')).size).toBe(size);
        expect(execFileSync('tail', ['-c', '7', join(mountPoint, 'big')], { encoding: 'utf8' })).toBe('the end');
        expect(readFileSync(join(mountPoint, 'after'), 'utf8')).toBe('a');
      } finally {
        unmount(mountPoint);
      }
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });
});

describe('images that only the FUSE plane can serve', () => {
  const odd: t.Segments = [
    [0, 'o'.repeat(511)],
    [4096, 'x'.repeat(1500)],
    [70_001, 'y'],
    [90_000, 'z'.repeat(3000)],
  ];
  const layer = t.tar(
    t.dir('./'),
    t.gnuSparse('old', 1_000_000, odd),
    t.paxSparse('0.0', 'v00', 1_000_000, odd),
    t.paxSparse('0.1', 'v01', 1_000_000, odd),
    t.paxSparse('1.0', 'v10', 1_000_000, odd),
    t.gnuSparse('many-chunks', 2 ** 26 + 512, [
      [512, 'c'.repeat(512)],
      [2 ** 26, 'd'.repeat(512)],
    ]),
  );

  test('unpadded segments and too many chunks equal the files that bsdtar extracts', async () => {
    expect(buildErofs([layer]).stats.placedFiles).toBe(5);
    const directory = mkdtempSync(join(tmpdir(), 'clip-sparse-'));
    try {
      // Not GNU tar: it cannot write such segments, and takes each for padded to a block. Go and libarchive, which can, do not.
      execFileSync('bsdtar', ['-x', '-p', '-f', '-', '-C', directory], { input: layer });
      const lines = compareTrees(await fuseTree([layer]), snapshotTree(directory));
      // bsdtar leaves alone the times of the directory it is told to extract into.
      expect(lines.filter((line) => !line.startsWith('.: mtime'))).toEqual([]);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });

  test('a sparse file of 3 TiB from a tar of 4 KiB', async () => {
    const monster = t.tar(t.gnuSparse('monster', 3 * 2 ** 40, [[2 ** 41, 'in the middle of it'.padEnd(512, '.')]]));
    expect(buildErofs([monster]).image.length).toBeLessThan(8192);
    plane = await new FusePlane([monster]).mount();
    const path = join(plane.mountPoint, 'monster');
    const read = execFileSync('dd', [`if=${path}`, 'bs=4096', 'skip=536870912', 'count=1', 'status=none']);
    expect(read.subarray(0, 19).toString()).toBe('in the middle of it');
    expect(read.subarray(512).every((byte) => byte === 0)).toBe(true);
  });
});

describe('images made by others', () => {
  const layout = join(LEGACY, 'oci-image');
  test('an image of the predecessor, with whiteouts', async () => {
    const blob = (digest: string): Buffer => readFileSync(join(layout, 'blobs', digest.replace(':', '/')));
    const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as { manifests: { digest: string }[] };
    for (const { digest } of index.manifests) {
      const manifest = JSON.parse(blob(digest).toString()) as { layers?: { digest: string }[] };
      if (manifest.layers === undefined) continue;
      const layers = manifest.layers.map((layer) => new Uint8Array(gunzipSync(blob(layer.digest))));
      const ours = kernelPlane(layers);
      expect(compareTrees(await fuseTree(layers), ours)).toEqual([]);
      await plane!.close();
      plane = null;
      // The root, and directories that umoci had to make, have no entry and so no times: see tree-cases.ts.
      const lines = compareTrees(ours, umociTree(layers)).filter((line) => !/: mtime /.test(line));
      expect(lines).toEqual([]);
    }
  });

  test('trees of this machine, packed and unpacked by GNU tar', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'clip-local-'));
    try {
      const made = execFileSync(
        'tar',
        ['-c', '-f', '-', '--format=pax', '--xattrs', '-C', '/', 'etc', 'usr/lib/systemd', 'usr/share/zoneinfo'].filter(
          (path) => path.startsWith('-') || path === '/' || existsSync(`/${path}`),
        ),
        { maxBuffer: 1 << 30, stdio: ['ignore', 'pipe', 'ignore'] },
      );
      const out = join(directory, 'out');
      mkdirSync(out);
      execFileSync('tar', ['-x', '-p', '-f', '-', '-C', out, '--xattrs', '--xattrs-include=*', '--numeric-owner'], {
        input: made,
      });
      const lines = compareTrees(kernelPlane([new Uint8Array(made)]), snapshotTree(out));
      // The roots: one has no entry, the other was made by this test. "usr" and "usr/lib", "usr/share" likewise.
      expect(lines.filter((line) => !/^(\.|usr|usr\/(lib|share)): /.test(line))).toEqual([]);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });
});
