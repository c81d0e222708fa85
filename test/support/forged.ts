import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import {
  type Archive,
  type ArchiveContents,
  type LayerContents,
  openArchive,
  stateDigest,
  writeArchive,
} from '../../src/archive/index.js';
import { crc32, crc32c } from '../../src/bytes/index.js';
import { COMPACT, DIRENT_SIZE, NID_UNIT, SB, SUPER_OFFSET } from '../../src/erofs/format.js';
import { ErofsReader, InodeView } from '../../src/erofs/index.js';
import {
  type CheckpointState,
  decodeCheckpointState,
  encodeCheckpointState,
  SpanInflater,
} from '../../src/gzip/index.js';
import { bytesInput } from './archives.js';
import { layerLike } from './gzip.js';
import { dir, file, tar } from './tar.js';

// Forged but consistent: archives whose CRCs and digests are right at every level that a forger can reach, with other content
// than the honest archive of the same layers.

const MIB = 1 << 20;
/** The rule that the forger wants to change, with room for "NO", and bytes behind it with which the CRC-32 is repaired. */
const HONEST_RULE = 'guest ALL=(ALL)   PASSWD: ALL';
export const FORGED_RULE = 'guest ALL=(ALL) NOPASSWD: ALL';
const SALT = `# ${createHash('sha512').update('salt').digest('hex')}\n`;
export const RULES = `${HONEST_RULE}\n${SALT}`;

/**
 * A layer whose second span, with spans of 1 MiB, copies RULES out of the window: they stand once before the boundary, and
 * behind it as the file `etc/sudoers`.
 */
export function layerToForge(seed = 1): Uint8Array {
  const room = MIB - 2 * 512 - 3072; // the headers of `etc` and of `before`, and some bytes between the two copies
  const before = Buffer.concat([
    layerLike(room - RULES.length, seed),
    Buffer.from(RULES),
    Buffer.alloc(3072, 'between '),
  ]);
  return tar(
    dir('etc'),
    file('before', before),
    file('etc/sudoers', RULES, { mode: 0o440 }),
    file('bin/tool', layerLike(300_000, seed + 1), { mode: 0o755 }),
    file('empty'),
    file('large', layerLike(2_500_000, seed + 2)),
  );
}

function contentsOf(archive: Archive): ArchiveContents {
  const { image, tree, placement, profile, references } = archive;
  const layers = archive.layers.map(({ table }, layer): LayerContents => {
    const states = Array.from(
      { length: table.count },
      (_, span) => archive.checkpointState(layer, span) ?? new Uint8Array(0),
    );
    return { spans: table, states };
  });
  return { image, tree, layers, placement, profile, references, hashes: archive.hashes() };
}

export function readContents(path: string): ArchiveContents {
  return contentsOf(openArchive(bytesInput(readFileSync(path), path)));
}

export function sealed(contents: ArchiveContents): Uint8Array {
  return Buffer.concat(writeArchive(contents));
}

/** An archive that differs from `archive` in its checkpoint states alone. Neither its header nor its identity shows that: they are checked when used. */
export function withDamagedStates(archive: Uint8Array): Uint8Array {
  const { offset, storedLength } = openArchive(bytesInput(archive)).sections.find(({ name }) => name === 'windows')!;
  const damaged = Uint8Array.from(archive);
  for (let at = offset; at < offset + storedLength; at++) damaged[at]! ^= 0x55;
  return damaged;
}

/** Flips some of the `free` bits so that `crcOf` gives `wanted`: CRC-32 is linear, so that is a system of 32 equations over GF(2). */
function repairCrc(
  bytes: Uint8Array,
  free: readonly number[],
  crcOf: (bytes: Uint8Array) => number,
  wanted: number,
): Uint8Array {
  const flipped = (bits: Iterable<number>): Uint8Array => {
    const out = Uint8Array.from(bytes);
    for (const bit of bits) out[bit >> 3]! ^= 1 << (bit & 7);
    return out;
  };
  const base = crcOf(bytes);
  /** By leading bit: a change of the CRC, and the bits that make it. */
  const basis = new Map<number, { change: number; bits: Set<number> }>();
  const reduce = (change: number, bits: Set<number>): number => {
    let rest = change >>> 0;
    for (let lead = 31; lead >= 0 && rest !== 0; lead--) {
      if (((rest >>> lead) & 1) === 0) continue;
      const row = basis.get(lead);
      if (row === undefined) {
        basis.set(lead, { change: rest, bits });
        return rest;
      }
      rest = (rest ^ row.change) >>> 0;
      for (const bit of row.bits) if (!bits.delete(bit)) bits.add(bit);
    }
    return rest;
  };
  for (const bit of free) reduce(crcOf(flipped([bit])) ^ base, new Set([bit]));
  if (basis.size < 32) throw new Error(`the free bits change only ${basis.size} bits of the CRC`);
  const bits = new Set<number>();
  reduce(base ^ wanted, bits);
  const repaired = flipped(bits);
  if (crcOf(repaired) !== wanted >>> 0) throw new Error('the CRC is not repaired');
  return repaired;
}

interface ForgedWindow {
  readonly span: number;
  readonly state: CheckpointState;
}

/**
 * A window that puts FORGED_RULE in place of HONEST_RULE into the output of the span that holds `etc/sudoers`, whose CRC-32
 * stays what the span table says.
 */
function forgeWindow({ spans, states }: LayerContents, blob: Uint8Array): ForgedWindow {
  const inflater = new SpanInflater();
  for (let span = 1; span < spans.count; span++) {
    const { header, window } = decodeCheckpointState({ stored: states[span]!, sha256: stateDigest(spans, span) });
    const at = Buffer.from(window).indexOf(HONEST_RULE);
    const salt = Buffer.from(window).indexOf(SALT.slice(0, 40));
    if (at < 0 || salt < 0) continue;
    const [from, to] = [spans.bitOffset[span]!, spans.bitOffset[span + 1]!];
    const compressed = blob.subarray(Math.floor(from / 8), Math.ceil(to / 8));
    const length = spans.layerOffset[span + 1]! - spans.layerOffset[span]!;
    const output = (bytes: Uint8Array): Buffer => {
      const views: Uint8Array[] = [];
      inflater.inflate(compressed, from % 8, encodeCheckpointState(header, bytes), length, (view) =>
        views.push(view.slice()),
      );
      return Buffer.concat(views);
    };
    const wanted = Uint8Array.from(window); // not slice(): of a Buffer that is a view
    wanted.set(Buffer.from(FORGED_RULE), at);
    const free = Array.from({ length: 64 }, (_, i) => 8 * (salt + 2 + (i >> 1)) + (i & 1));
    const forged = repairCrc(wanted, free, (bytes) => crc32(output(bytes)), spans.crc32[span]!);
    if (!output(forged).includes(FORGED_RULE)) throw new Error('the span does not copy the rule out of its window');
    return { span, state: encodeCheckpointState(header, forged) };
  }
  throw new Error('no span copies the rule out of its window');
}

/** The tree with another mode for the file at `path`, and a superblock checksum that is right again. */
function withMode(tree: Uint8Array, path: string, mode: number): Uint8Array {
  const out = Uint8Array.from(tree);
  const reader = new ErofsReader(out);
  const view = new DataView(out.buffer);
  const nid = reader.lookupPath(Buffer.from(path));
  const at = view.getUint32(SUPER_OFFSET + SB.metaBlock, true) * reader.blockSize + NID_UNIT * nid;
  view.setUint16(at + COMPACT.mode, mode, true);
  return withChecksum(out);
}

/** The tree in which a name of a directory leads to another inode. */
export function withEntry(tree: Uint8Array, directory: string, name: string, target: string): Uint8Array {
  const out = Uint8Array.from(tree);
  const reader = new ErofsReader(out);
  const nid = (path: string): number => reader.lookupPath(Buffer.from(path));
  const starts: number[] = [];
  let wanted = -1;
  reader.readdir(nid(directory), 0, (_nid, _type, start, end) => {
    if (Buffer.from(out.subarray(start, end)).toString() === name) wanted = starts.length;
    starts.push(start);
    return true;
  });
  // The entries of a small directory lie in one piece before their names, the first of which follows the last entry.
  const at = starts[0]! + DIRENT_SIZE * (wanted - starts.length);
  new DataView(out.buffer).setBigUint64(at, BigInt(nid(target)), true);
  return withChecksum(out);
}

function withChecksum(out: Uint8Array): Uint8Array {
  const view = new DataView(out.buffer);
  const reader = new ErofsReader(out);
  out.fill(0, SUPER_OFFSET + SB.checksum, SUPER_OFFSET + SB.checksum + 4);
  const block = out.subarray(
    SUPER_OFFSET,
    Math.max(1, Math.ceil((SUPER_OFFSET + 1) / reader.blockSize)) * reader.blockSize,
  );
  view.setUint32(SUPER_OFFSET + SB.checksum, crc32c(block), true);
  return out;
}

function replaceLayer(contents: ArchiveContents, change: (layer: LayerContents) => LayerContents): ArchiveContents {
  const [first, ...rest] = contents.layers;
  return { ...contents, layers: [change(first!), ...rest] };
}

export interface Forgery {
  readonly name: string;
  readonly contents: ArchiveContents;
  /** Mounts of it and of the honest archive are served as one. */
  readonly sameIdentity: boolean;
}

/** Forgeries of an archive of layerToForge(): the first layer's blob is `blob`. */
export function forgeries(honest: ArchiveContents, blob: Uint8Array): Forgery[] {
  const { span, state } = forgeWindow(honest.layers[0]!, blob);
  const withState = (layer: LayerContents): LayerContents => {
    return { ...layer, states: layer.states.map((stored, i) => (i === span ? state.stored : stored)) };
  };
  const withDigest = ({ spans, states }: LayerContents): LayerContents => {
    const stateSha256 = spans.stateSha256.slice();
    stateSha256.set(state.sha256, 32 * span);
    return { states, spans: { ...spans, stateSha256 } };
  };
  const reader = new ErofsReader(honest.tree);
  const nid = reader.lookupPath(Buffer.from('etc/sudoers'));
  const inode = new InodeView();
  reader.inode(nid, inode);
  const rename = (contents: ArchiveContents): ArchiveContents => {
    return { ...contents, image: { ...contents.image, config: { ...contents.image.config, author: 'forger' } } };
  };
  const forged = (name: string, contents: ArchiveContents, sameIdentity = false): Forgery => ({
    name,
    contents,
    sameIdentity,
  });
  return [
    forged('a window', replaceLayer(honest, withState), true),
    forged('a window, in an archive of another name', rename(replaceLayer(honest, withState))),
    forged(
      'a window and its digest',
      replaceLayer(honest, (layer) => withDigest(withState(layer))),
    ),
    forged('a digest of a window', replaceLayer(honest, withDigest)),
    forged(
      'a window of another span',
      replaceLayer(honest, (layer) => ({
        ...layer,
        states: layer.states.map((s, i) => (i === span ? layer.states[2]! : s)),
      })),
      true,
    ),
    forged('a set-uid bit in the tree', { ...honest, tree: withMode(honest.tree, 'bin/tool', 0o104755) }),
    forged('a placement of one file at the data of another', {
      ...honest,
      placement: {
        count: 1,
        nid: Float64Array.of(nid),
        fileOffset: Float64Array.of(0),
        length: Float64Array.of(inode.size),
        layer: Uint32Array.of(0),
        layerOffset: Float64Array.of(1024),
      },
    }),
    forged(
      'a CRC',
      replaceLayer(honest, (layer) => ({
        ...layer,
        spans: { ...layer.spans, crc32: layer.spans.crc32.map((c) => c ^ 1) },
      })),
    ),
    forged(
      'the place of a cut',
      replaceLayer(honest, (layer) => {
        const layerOffset = layer.spans.layerOffset.map((at, i) => (i === 1 ? at + 512 : at));
        return { ...layer, spans: { ...layer.spans, layerOffset } };
      }),
    ),
    forged(
      'the bit at which a span begins',
      replaceLayer(honest, (layer) => {
        const bitOffset = layer.spans.bitOffset.map((at, i) => (i === 1 ? at + 1 : at));
        return { ...layer, spans: { ...layer.spans, bitOffset } };
      }),
    ),
    forged('the size of the blob', {
      ...honest,
      image: {
        ...honest.image,
        layers: honest.image.layers.map((layer, i) => (i === 0 ? { ...layer, size: layer.size + 1 } : layer)),
      },
    }),
    forged('the place of the layers', { ...honest, image: { ...honest.image, repository: '/nowhere' } }),
    forged(
      'the profile',
      { ...honest, profile: { source: 'recorded', layer: Uint32Array.of(0, 0), span: Uint32Array.of(2, 1) } },
      true,
    ),
  ];
}
