// Fuzz target: version 1 archives of all three kinds. What is opened is walked, and every file is mapped to its layers.
import { readFileSync } from 'node:fs';
import { ClipError } from '../../src/bytes/index.js';
import { ErofsReader, InodeView, mapFileRange, visitInodes } from '../../src/erofs/index.js';
import {
  encodeIndex,
  HEADER_SIZE,
  type LegacyNode,
  localEnd,
  openLegacyArchive,
  s3Archive,
} from '../../src/legacy/index.js';
import { blockCheck, checkBlocks } from '../../src/spans/index.js';
import { bytesInput } from '../support/archives.js';
import { fixture, OCI } from '../support/legacy.js';
import { legacyNode } from '../support/legacy-node.js';
import type { Random } from './random.js';

export function execute(input: Uint8Array): string {
  try {
    const archive = openLegacyArchive(bytesInput(input, 'fuzz'));
    const reader = new ErofsReader(archive.tree);
    const scratch = new InodeView();
    const sizes = archive.image.layers.map((layer) => layer.uncompressedSize);
    let files = 0;
    visitInodes(reader, (nid, inode) => {
      if (!inode.isFile) return;
      files++;
      const { size } = inode;
      mapFileRange(reader, archive.placement, scratch, nid, 0, size, (layer, offset, length) => {
        if (layer >= 0 && offset + length > sizes[layer]!) throw new Error(`a file ends beyond layer ${layer}`);
      });
    });
    const { table } = archive.layers[0] ?? {};
    if (archive.storage.kind === 'local' && table !== undefined) {
      for (let span = 0; span < table.count; span++) {
        const [from, to] = [table.layerOffset[span]!, table.layerOffset[span + 1]!];
        if (to > input.length) throw new Error(`span ${span} ends beyond the file`);
        checkBlocks(input.subarray(from, to), blockCheck(table, span)!);
      }
    }
    archive.hashes();
    return `ok ${archive.storage.kind} ${Math.min(9, files)}`;
  } catch (error) {
    if (!(error instanceof ClipError)) throw error;
    return error.message.replace(/\d+|"[^"]*"|fuzz: index at byte.*?:.*?:/g, '#').slice(0, 60);
  }
}

const node = (path: string, fields: Partial<LegacyNode>): LegacyNode =>
  legacyNode(path, { mtime: 1_700_000_000, mtimeNsec: 1, ...fields });

const NODES = [
  node('/', { nodeType: 'dir', mode: 0o040755 }),
  node('/a', { dataPos: 60, dataLen: 30, contentHash: Buffer.from('ab'.repeat(32)) }),
  node('/b', { dataPos: 200, dataLen: 10, ino: 7, nlink: 2 }),
  node('/c', { dataPos: 200, dataLen: 10, ino: 7, nlink: 2 }),
  node('/d', { nodeType: 'dir', mode: 0o042755, mtime: -1 }),
  node('/d/l', { nodeType: 'symlink', mode: 0o120777, target: Buffer.from('../a') }),
  node('/n', { mode: 0o020666, rdev: 0x103 }),
];

export function corpus(): Uint8Array[] {
  const data = Buffer.alloc(300);
  const { index, header } = localEnd(NODES, HEADER_SIZE + data.length);
  const place = { bucket: 'b', region: 'r', key: 'k', endpoint: 'http://h', forcePathStyle: true };
  return [
    Buffer.concat([header, data, index]),
    Buffer.concat(s3Archive(encodeIndex(NODES), place)),
    ...OCI.map((name) => readFileSync(fixture(name))),
    readFileSync(fixture('s3-2023-06')),
  ];
}

/** Small numbers anywhere: positions, lengths and links are among them. */
export function mutate(input: Uint8Array, random: Random): Uint8Array {
  const out = Buffer.from(input);
  if (out.length < HEADER_SIZE + 8) return out;
  if (random.chance(4)) {
    out.writeBigInt64LE(BigInt(random.below(2 * out.length)), 10 + 8 * random.below(4));
    return out;
  }
  for (let n = random.below(4); n >= 0; n--) {
    out[HEADER_SIZE + random.below(out.length - HEADER_SIZE)] = random.below(random.chance(2) ? 12 : 128);
  }
  return out;
}
