import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { bytesInput } from '../../test/support/archives.js';
import { expectedNodes, fixture, LOCAL, OCI, S3 } from '../../test/support/legacy.js';
import { legacyNode } from '../../test/support/legacy-node.js';
import type { Archive } from '../archive/index.js';
import { ClipError, FormatError } from '../bytes/index.js';
import { ErofsReader, InodeView, mapFileRange, resolvePath } from '../erofs/index.js';
import { blockCheck, checkBlocks } from '../spans/index.js';
import { GobWriter } from './gob/index.js';
import {
  encodeIndex,
  HEADER_SIZE,
  type LegacyNode,
  localEnd,
  openLegacyArchive,
  readLegacyOrigin,
  s3Archive,
} from './index.js';

const latin1 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1');

function open(bytes: Uint8Array): Archive {
  return openLegacyArchive(bytesInput(bytes));
}

/** The tree, by path. */
function walk(archive: Archive): Map<string, InodeView & { target: string }> {
  const reader = new ErofsReader(archive.tree);
  const found = new Map<string, InodeView & { target: string }>();
  const visit = (nid: number, path: string): void => {
    const view = new InodeView();
    reader.inode(nid, view);
    const target = view.isSymlink ? latin1(reader.readlink(nid)) : '';
    found.set(path === '' ? '/' : path, Object.assign(view, { target }));
    if (!view.isDirectory) return;
    const children: [number, string][] = [];
    reader.readdir(nid, 0, (child, _type, start, end) => {
      const name = latin1(reader.image.subarray(start, end));
      if (name !== '.' && name !== '..') children.push([child, name]);
      return true;
    });
    for (const [child, name] of children) visit(child, `${path}/${name}`);
  };
  visit(reader.rootNid, '');
  return found;
}

describe.each([...LOCAL, ...S3, ...OCI])('%s', (name) => {
  const archive = open(readFileSync(fixture(name)));
  const nodes = expectedNodes(name);

  test('has the tree that the Go program sees', () => {
    const tree = walk(archive);
    expect([...tree.keys()].sort()).toEqual(nodes.map((node) => node.path).sort());
    for (const node of nodes) {
      const found = tree.get(node.path)!;
      const type = found.isDirectory ? 'dir' : found.isSymlink ? 'symlink' : 'file';
      const { uid, gid, mtime, mtimeNsec, target } = found;
      expect({ path: node.path, type, mode: found.mode & 0o7777, uid, gid, mtime, mtimeNsec, target }).toEqual({
        path: node.path,
        type: node.type,
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        mtime: node.mtime,
        mtimeNsec: node.mtimeNsec,
        target: node.target,
      });
      if (node.type === 'file') expect(found.size).toBe(node.size);
    }
  });

  test('knows where each file lies', () => {
    const reader = new ErofsReader(archive.tree);
    for (const node of nodes) {
      if (node.type !== 'file' || node.size === 0) continue;
      const nid = resolvePath(reader, Buffer.from(node.path, 'latin1'), false);
      let total = 0;
      mapFileRange(reader, archive.placement, new InodeView(), nid, 0, node.size, (layer, offset, length) => {
        expect(layer).toBeGreaterThanOrEqual(0);
        // A name of a hard link may show the copy of another one.
        if (node.dataLen > 0 && node.nlink === 1) expect(offset).toBe(node.dataPos + total);
        total += length;
      });
      expect(total).toBe(node.size);
    }
  });
});

describe('particular archives', () => {
  test.each(['local-2023-06', 'local-2023-08'] as const)(
    '%s: hard links are found by the number they share',
    (name) => {
      const archive = open(readFileSync(fixture(name)));
      const tree = walk(archive);
      const names = ['/data/text.txt', '/data/text-link.txt', '/etc/text-link.txt'].map((path) => tree.get(path)!);
      expect(new Set(names.map(({ nid }) => nid)).size).toBe(1);
      expect(names[0]!.nlink).toBe(3);
    },
  );

  test('set-uid, set-gid and sticky bits are recovered from the mode of 2023', () => {
    const tree = walk(open(readFileSync(fixture('local-2023-06'))));
    expect(tree.get('/usr/bin/suid')!.mode).toBe(0o104755);
    expect(tree.get('/usr/bin/sgid')!.mode).toBe(0o102755);
    expect(tree.get('/sticky')!.mode).toBe(0o041777);
  });

  test.each(LOCAL)('%s: every span is what its checksums say, and one flipped bit is found', (name) => {
    const bytes = readFileSync(fixture(name));
    const { table } = open(bytes).layers[0]!;
    expect(table.count).toBeGreaterThan(1);
    for (let span = 0; span < table.count; span++) {
      const data = bytes.subarray(table.layerOffset[span]!, table.layerOffset[span + 1]!);
      const check = blockCheck(table, span)!;
      expect(checkBlocks(data, check)).toBeNull();
      if (check.whole.length === 0) continue;
      const damaged = Uint8Array.from(data);
      damaged[check.whole[0]!]! ^= 1;
      expect(checkBlocks(damaged, check)).toMatch(/^the CRC-64 of the block at byte \d+ of it differs$/);
    }
  });

  test('hashes come with the archives that have them', () => {
    expect(open(readFileSync(fixture('local-2023-06'))).hashes()).toBeNull();
    expect(open(readFileSync(fixture('local-2026-05'))).hashes()!.count).toBeGreaterThan(300);
  });

  test('the place of an object in S3', () => {
    const { storage } = readLegacyOrigin(bytesInput(readFileSync(fixture('s3-2026-05'))));
    expect(storage).toEqual({
      kind: 's3',
      bucket: 'clip-fixtures',
      region: 'us-east-1',
      key: 'trees/cc62511.clip',
      endpoint: 'http://127.0.0.1:5600',
      forcePathStyle: true,
    });
    const old = readLegacyOrigin(bytesInput(readFileSync(fixture('s3-2023-06')))).storage;
    expect(old).toMatchObject({ kind: 's3', endpoint: '', forcePathStyle: false });
  });

  test('the image of an OCI archive, and the layers that are to be indexed', () => {
    const archive = open(readFileSync(fixture('oci-2025-11')));
    expect(archive.image).toMatchObject({ registry: '127.0.0.1:5599', repository: 'legacy/small' });
    expect(archive.image.layers.map(({ size }) => size)).toEqual([2354401, 394561, 3413]);
    expect(archive.unindexed).toHaveLength(3);
    expect(archive.image.config).toMatchObject({ config: { Env: ['PATH=/usr/bin'], Cmd: ['/usr/bin/prog'] } });
  });
});

const node = (path: string, fields: Partial<LegacyNode> = {}): LegacyNode =>
  legacyNode(path, { mtime: 1_700_000_000, mtimeNsec: 5, ...fields });
const ROOT = node('/', { nodeType: 'dir', mode: 0o040755 });

/** A local archive with `data` bytes of room, and these nodes. */
function local(nodes: readonly LegacyNode[], data = 1000): Uint8Array {
  const { index, header } = localEnd(nodes, HEADER_SIZE + data);
  return Buffer.concat([header, Buffer.alloc(data), index]);
}

describe('what is written is read', () => {
  test('a local archive: every field that the format has', () => {
    const nodes = [
      node('/', { nodeType: 'dir', mode: 0o040700, uid: 7, gid: 8, mtime: -5 }),
      node('/.wh.not-a-whiteout', { dataPos: 100, dataLen: 9 }),
      node('/dev', { nodeType: 'dir', mode: 0o041777 }),
      node('/dev/null', { mode: 0o020666, rdev: 0x103 }),
      node('/fifo', { mode: 0o010644 }),
      node('/link', { nodeType: 'symlink', mode: 0o120777, target: Buffer.from('a\xff', 'latin1') }),
      node('/one', { dataPos: 200, dataLen: 3, ino: 2n ** 63n + 1n, nlink: 2, mode: 0o104755 }),
      node('/two', { dataPos: 200, dataLen: 3, ino: 2n ** 63n + 1n, nlink: 2, mode: 0o104755 }),
    ];
    const tree = walk(open(local(nodes)));
    expect([...tree.keys()]).toHaveLength(nodes.length);
    expect(tree.get('/')).toMatchObject({ mode: 0o040700, uid: 7, gid: 8, mtime: -5, mtimeNsec: 5 });
    expect(tree.get('/.wh.not-a-whiteout')!.size).toBe(9);
    expect(tree.get('/dev/null')).toMatchObject({ mode: 0o020666, rdevMajor: 1, rdevMinor: 3 });
    expect(tree.get('/fifo')!.mode).toBe(0o010644);
    expect(tree.get('/link')!.target).toBe('a\xff');
    expect(tree.get('/one')).toMatchObject({ mode: 0o104755, nlink: 2, nid: tree.get('/two')!.nid });
  });

  test('an S3 archive', () => {
    const place = { bucket: 'b', region: 'r', key: 'k/e.clip', endpoint: 'http://h:1', forcePathStyle: true };
    const bytes = Buffer.concat(s3Archive(encodeIndex([ROOT, node('/f', { dataPos: 60, dataLen: 5 })]), place));
    const archive = open(bytes);
    expect(archive.storage).toEqual({ kind: 's3', ...place });
    expect(walk(archive).get('/f')!.size).toBe(5);
  });

  test('a block beyond the whole-block limit is cut in pieces that end with its checksum', () => {
    const length = 10 * 1024 * 1024 + 3;
    const { table } = open(local([ROOT, node('/big', { dataPos: 60, dataLen: length })], length + 200)).layers[0]!;
    expect(table.layerOffset[table.count]).toBe(60 + length + 8);
    const checks = Array.from({ length: table.count }, (_, span) => blockCheck(table, span)!);
    const parts = checks.flatMap(({ part }) => (part === null ? [] : [part]));
    expect(parts.length).toBeGreaterThan(8);
    expect(parts.filter(({ last }) => last)).toHaveLength(1);
    expect(parts.reduce((sum, { from, to }) => sum + to - from, 0)).toBe(length);
  });
});

describe('hostile and damaged archives', () => {
  const refusal = (bytes: Uint8Array): ClipError => {
    try {
      walk(open(bytes));
    } catch (error) {
      expect(error).toBeInstanceOf(ClipError);
      return error as ClipError;
    }
    throw new Error('it was opened');
  };

  test('cut off anywhere it is refused', () => {
    const bytes = local([ROOT, node('/a', { dataPos: 60, dataLen: 100 })], 200);
    for (let length = 0; length < bytes.length; length++) {
      expect(refusal(bytes.subarray(0, length)).code).toBe('BAD_FORMAT');
    }
  });

  test.each([
    ['data beyond the file', [ROOT, node('/a', { dataPos: 60, dataLen: 1e12 })], /data ends at byte/],
    [
      'blocks that overlap',
      [ROOT, node('/a', { dataPos: 60, dataLen: 50 }), node('/b', { dataPos: 80, dataLen: 50 })],
      /overlap/,
    ],
    ['a block that begins in the header', [ROOT, node('/a', { dataPos: 0, dataLen: 50 })], /overlap/],
    ['a name of 256 bytes', [ROOT, node(`/${'n'.repeat(256)}`)], /a name of 256 bytes/],
    ['a symlink to nothing', [ROOT, node('/l', { nodeType: 'symlink' })], /symlink target of 0 bytes/],
    ['a path below a file', [ROOT, node('/a'), node('/a/b')], /parent is not a directory/],
    ['a type that is none', [node('/x', { nodeType: 'device' as 'file' })], /type "device"/],
    ['a file of more than 64 TiB', [ROOT, node('/a', { size: 2 ** 50 })], /at most/],
  ])('%s', (_, nodes, message) => {
    const error = refusal(local(nodes as LegacyNode[]));
    expect(error.message).toMatch(message);
    expect(error.message).toMatch(/^test/);
  });

  test('paths cannot leave the root', () => {
    const tree = walk(
      open(local([ROOT, node('/../../etc/passwd'), node('/l', { nodeType: 'symlink', target: Buffer.from('/') })])),
    );
    expect([...tree.keys()].sort()).toEqual(['/', '/etc', '/etc/passwd', '/l']);
  });

  test('fields that are unknown are skipped, and those that are missing are zero', () => {
    const schema = {
      slice: {
        struct: 'Odd',
        fields: [
          ['Later', { slice: 'float' }],
          ['Path', 'string'],
          ['NodeType', 'string'],
        ],
      },
    } as const;
    const nodes = [
      { Path: '/', NodeType: 'dir' },
      { Path: '/x', NodeType: 'file', Later: [1, 2] },
    ];
    const index = new GobWriter().write(schema, nodes).finish();
    const bytes = Buffer.concat([local([]).subarray(0, HEADER_SIZE), index]);
    bytes.writeBigInt64LE(BigInt(index.length), 10);
    bytes.writeBigInt64LE(BigInt(HEADER_SIZE), 18);
    expect(walk(open(bytes)).get('/x')).toMatchObject({ mode: 0o100000, size: 0, mtime: 0 });
  });

  test('every refusal of damage says what to do next', () => {
    expect(refusal(local([ROOT]).subarray(0, 40)).hint).toMatch(/take it from its source again/);
  });

  test('a flipped bit in any byte is refused or read, never more', () => {
    const bytes = local([ROOT, node('/a', { dataPos: 60, dataLen: 20 }), node('/d', { nodeType: 'dir' })], 100);
    for (let at = 0; at < bytes.length; at++) {
      const damaged = Uint8Array.from(bytes);
      damaged[at]! ^= 1 << (at % 8);
      try {
        walk(open(damaged));
      } catch (error) {
        expect(error).toBeInstanceOf(ClipError);
      }
    }
  });

  test('what is not a version 1 archive', () => {
    expect(() => open(Buffer.alloc(100))).toThrow(FormatError);
  });
});
