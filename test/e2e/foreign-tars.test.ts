import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { treeWarnings } from '../../src/erofs/index.js';
import { compareTrees, snapshotTree } from '../support/compare.js';
import { buildErofs, kernelPlane, type Snapshot, withKernelMount } from '../support/planes.js';
import * as t from '../support/tar.js';

/** Tars as old and odd writers make them: what GNU tar and bsdtar unpack, and what container runtimes leave out. */

const UNPACKERS: readonly (readonly [string, readonly string[]])[] = [
  ['tar', ['-x', '-p', '--numeric-owner', '--same-owner', '-f', '-']],
  ['bsdtar', ['-x', '-p', '--numeric-owner', '--same-owner', '-f', '-']],
];

/** What `program` unpacks, without the directory that it unpacks into; and whether it complained. */
function unpacked(program: string, options: readonly string[], layer: Uint8Array): { tree: Snapshot; failed: boolean } {
  const directory = mkdtempSync(join(tmpdir(), 'clip-foreign-'));
  try {
    const ran = spawnSync(program, [...options, '-C', directory], { input: layer });
    const tree = snapshotTree(directory);
    tree.delete('.');
    return { tree, failed: ran.status !== 0 };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function ours(...layers: readonly Uint8Array[]): Snapshot {
  const tree = kernelPlane(layers);
  tree.delete('.');
  return tree;
}

describe.each(UNPACKERS)('%s unpacks the same', (program, options) => {
  const v7 = (name: string, type: string, mode: number, data = ''): Uint8Array =>
    Buffer.concat([t.header({ name, type, mode, dialect: 'v7', size: data.length, mtime: 7, uid: 5 }), t.padded(data)]);

  test.each(['\0', '0'])('a v7 tar, whose directories are names with a slash of type %j', (type) => {
    const layer = t.tar(
      v7('d/', type, 0o750),
      v7('d/empty/', type, 0o701),
      v7('d/f', type, 0o640, 'hello'),
      v7('after/', type, 0o755),
    );
    const { tree, failed } = unpacked(program, options, layer);
    expect(failed).toBe(false);
    expect([...tree].map(([path, { type: kind }]) => `${path} ${kind}`).sort()).toEqual([
      'after dir',
      'd dir',
      'd/empty dir',
      'd/f file',
    ]);
    expect(ours(layer).size).toBe(tree.size);
    // bsdtar and GNU tar set the times of directories only when they are done: these have them, too.
    expect(compareTrees(ours(layer), tree).filter((line) => !/: nlink /.test(line))).toEqual([]);
  });

  test('a pax size with more than 19 digits, most of them zeros', () => {
    const layer = t.tar(
      t.pax({ size: `${'0'.repeat(37)}999` }),
      t.header({ name: 'f', size: 0, mtime: 7 }),
      t.padded('d'.repeat(999)),
      t.file('after', 'x'),
    );
    const { tree, failed } = unpacked(program, options, layer);
    expect(failed).toBe(false);
    expect(tree.get('f')?.size).toBe(999);
    expect(compareTrees(ours(layer), tree)).toEqual([]);
  });

  test('a tar that ends right after a pax header', () => {
    const layer = Buffer.concat([t.file('f', 'abc'), t.pax({ path: 'gone' })]);
    const { tree, failed } = unpacked(program, options, layer);
    expect(failed).toBe(program === 'bsdtar'); // it says "damaged", and unpacks the same
    expect(compareTrees(ours(layer), tree)).toEqual([]);
  });

  test('all but an entry without a name', () => {
    const layer = t.tar(
      t.file('f', 'abc'),
      Buffer.concat([t.header({ name: '', size: 3 }), t.padded('xyz')]),
      t.file('after', 'x'),
    );
    const { tree, failed } = unpacked(program, options, layer);
    expect(failed).toBe(true); // containerd and moby do not fail
    expect(compareTrees(ours(layer), tree)).toEqual([]);
    expect(treeWarnings(buildErofs([layer]).stats)).toEqual([
      expect.stringMatching(/^1 tar entry without a name .* left out/),
    ]);
  });
});

/**
 * containerd (pkg/archive/tar.go, applyNaive): "file ignored: resolved to root". moby and containers/storage
 * (pkg/archive/archive.go, Unpack): an entry whose cleaned name is "." is passed over. So the root keeps what mkdir gave it.
 */
describe('the entry of the root itself is ignored, as container runtimes do', () => {
  const options = { mode: 0o700, uid: 1000, gid: 1000, xattrs: { 'user.root': 'x' } };
  const names = ['./', '/', '.', '', 'usr/..'];

  test.each(names)('"%s": the root stays 0755, 0:0, without xattrs or times', (name) => {
    const root = kernelPlane([t.tar(t.dir(name, options), t.file('f', '1')), t.tar(t.dir(name, options))]).get('.');
    expect(root).toMatchObject({ type: 'dir', mode: '0755', uid: 0, gid: 0, mtime: '0', xattrs: {} });
  });

  test('a user other than root can enter an image whose root entry says 0700 (Alpine 3.6 to 3.9)', () => {
    const layer = t.tar(t.dir('./', { mode: 0o700 }), t.dir('etc'), t.file('etc/alpine-release', '3.9.6'));
    withKernelMount([layer], (mountPoint) => {
      const read = execFileSync('cat', ['etc/alpine-release'], { cwd: mountPoint, uid: 65_534, gid: 65_534 });
      expect(read.toString()).toBe('3.9.6');
    });
  });

  test('a whole tree packed by GNU tar from within', () => {
    const directory = mkdtempSync(join(tmpdir(), 'clip-root-'));
    try {
      execFileSync('sh', ['-c', 'mkdir d; echo 1 > d/f; chmod 700 .; chown 7:7 .'], { cwd: directory });
      const layer = execFileSync('tar', ['-c', '--format=pax', '-C', directory, '--numeric-owner', '.']);
      const seen = kernelPlane([new Uint8Array(layer)]);
      expect(seen.get('.')).toMatchObject({ mode: '0755', uid: 0, gid: 0, mtime: '0' });
      expect(compareTrees(seen, snapshotTree(directory)).filter((line) => !line.startsWith('.: '))).toEqual([]);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });
});
