import { createHash } from 'node:crypto';
import {
  type Archive,
  type ArchiveInput,
  type ArchiveStorage,
  type FileHashes,
  type ImageMeta,
  type LayerMeta,
  placeFault,
  type SpanTable,
} from '../archive/index.js';
import type { Nid, SpanIndex } from '../bytes/index.js';
import { FormatError } from '../bytes/index.js';
import { type ErofsImage, type Placement, sharedPlacement, writeErofs } from '../erofs/index.js';
import { type Tree, TreeBuilder } from '../tree/index.js';
import { type BlockCuts, blockTable, tableOf } from './blocks.js';
import { HEADER_SIZE, S_IFMT, S_IFREG } from './format.js';
import { decodeHeader, type LegacyHeader } from './header.js';
import { decodeOciInfo, decodeS3Info, type OciLocation } from './storage-info.js';
import { type LegacyEntries, readEntries, refusal } from './tree.js';

const DAMAGED_HINT = 'the file is damaged or was not written to its end: take it from its source again';

/**
 * A local archive is read where it lies, by threads that share the page cache: small files are checked together, so that the first
 * look at each of them does not cost a round trip of its own.
 */
const LOCAL_CUTS: BlockCuts = { together: 512 * 1024 };
/** From S3 exactly the file that is read is fetched; of a long one the piece. */
const S3_CUTS: BlockCuts = { together: 0 };

/** One layer of an OCI archive, indexed by us: version 1 has no checkpoints that inflation could start from. */
export interface LayerIndex {
  readonly meta: LayerMeta;
  readonly table: SpanTable;
  checkpointState(span: SpanIndex): Uint8Array | null;
}

/** What an index of an archive that holds its data becomes. Plain data: it can be kept, and spares decoding the index again. */
export interface ConvertedTree {
  readonly tree: Uint8Array;
  readonly placement: Placement | null;
  readonly layerOffset: Float64Array;
  readonly start: Float64Array;
  readonly length: Float64Array;
  readonly hash: readonly string[];
}

/** Trees that were made before, by the identity of their archive. */
export interface KnownTrees {
  get(identity: string): ConvertedTree | null;
  put(identity: string, tree: ConvertedTree): void;
}

/** Where an archive's data is, without its index. */
export interface LegacyOrigin {
  readonly storage: ArchiveStorage;
  readonly image: ImageMeta;
}

export interface LegacyArchive extends Archive {
  readonly version: 1;
}

function read(input: ArchiveInput, offset: number, length: number, what: string): Uint8Array {
  const bytes = input.readAt(offset, length);
  if (bytes.length === length) return bytes;
  throw new FormatError(what, offset, `${length} bytes expected, ${bytes.length} read: truncated`);
}

function withHint<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof FormatError) || error.hint !== undefined) throw error;
    throw new FormatError(error.what, error.offset, error.detail, { hint: DAMAGED_HINT, cause: error.cause });
  }
}

interface Opened {
  readonly header: LegacyHeader;
  readonly info: Uint8Array;
  readonly storage: ArchiveStorage;
  readonly oci: OciLocation | null;
}

function readOrigin(input: ArchiveInput): Opened {
  const { name, size } = input;
  const header = decodeHeader(read(input, 0, Math.min(HEADER_SIZE, size), `${name}: header`), name, size);
  const what = `${name}: storage info`;
  const info =
    header.storage === 'local' ? new Uint8Array(0) : read(input, header.info.position, header.info.length, what);
  const oci = header.storage === 'oci' ? decodeOciInfo(info, what) : null;
  const storage: ArchiveStorage =
    header.storage === 's3' ? { kind: 's3', ...decodeS3Info(info, what) } : { kind: header.storage };
  return { header, info, storage, oci };
}

/** Opens no more of an archive than it takes to find its data. @throws FormatError */
export function readLegacyOrigin(input: ArchiveInput): LegacyOrigin {
  return withHint(() => {
    const { storage, oci } = readOrigin(input);
    const image =
      oci === null
        ? imageOfData(storage, input.name, '', 0)
        : imageOfOci(
            oci,
            oci.layers.map((digest) => metaOf(digest, oci, 0)),
            input.name,
          );
    return { storage, image };
  });
}

/**
 * Opens a version 1 archive: its index becomes the same kind of tree that a version 3 archive holds, with the exact place of each
 * file's data beside it.
 * @param layerIndex  what we know of an OCI layer; null: it was never indexed
 * @throws FormatError
 */
export function openLegacyArchive(
  input: ArchiveInput,
  layerIndex: (digest: string) => LayerIndex | null = () => null,
  trees: KnownTrees | null = null,
): LegacyArchive {
  return withHint(() => open(input, layerIndex, trees));
}

function open(
  input: ArchiveInput,
  layerIndex: (digest: string) => LayerIndex | null,
  trees: KnownTrees | null,
): LegacyArchive {
  const { header, info, storage, oci } = readOrigin(input);
  const what = `${input.name}: index`;
  const index = read(input, header.index.position, header.index.length, what);
  const identity = identityOf(input.name, header, index, info);
  const kept = oci === null ? (trees?.get(identity) ?? null) : null;
  if (kept !== null) return reopened(input, storage, identity, kept);
  // A layer that is used twice is one: the index names it by digest.
  const digests = [...new Set(oci?.layers ?? [])];
  const layerOf = oci === null ? null : new Map(digests.map((digest, i) => [digest, i] as const));
  const entries = readEntries(index, what, layerOf);
  const indexes = oci === null ? [] : digests.map(layerIndex);
  let tables: SpanTable[];
  let image: ImageMeta;
  if (oci === null) {
    const table = blockTable(entries.blocks, storage.kind === 's3' ? S3_CUTS : LOCAL_CUTS, what);
    const end = table.layerOffset[table.count]!;
    if (storage.kind === 'local' && end > input.size) {
      throw new FormatError(what, 0, `data ends at byte ${end}, but the file has ${input.size}: truncated`);
    }
    tables = [table];
    image = imageOfData(storage, input.name, identity, end);
  } else {
    checkEnds(entries, digests, indexes, what);
    tables = indexes.map((one) => one?.table ?? NO_SPANS);
    const layers = digests.map((digest, i) => indexes[i]?.meta ?? metaOf(digest, oci, entries.ends[i]!));
    image = imageOfOci(oci, layers, input.name);
  }
  const { tree, erofs } = treeOf(entries, image, what);
  const table = tables[0];
  if (oci === null && table?.blocks !== undefined) {
    const { start, length, hash } = table.blocks;
    const { layerOffset } = table;
    trees?.put(identity, { tree: erofs.image, placement: erofs.placement, layerOffset, start, length, hash });
  }
  return {
    version: 1,
    storage,
    image,
    tree: shared(erofs.image),
    treeBytes: erofs.image.length,
    layers: tables.map((table) => ({ table })),
    placement: erofs.placement,
    profile: null,
    references: null,
    identity,
    digest: identity,
    sections: [],
    unindexed: digests.filter((_, i) => indexes[i] === null),
    checkpointState: (layer, span) => indexes[layer]?.checkpointState(span) ?? null,
    section: () => null,
    entries: () => null,
    hashes: () => hashesOf(entries, tree, erofs),
    verify: () => {},
  };
}

function shared(bytes: Uint8Array): Uint8Array {
  const copy = new Uint8Array(new SharedArrayBuffer(bytes.length));
  copy.set(bytes);
  return copy;
}

/** An archive whose tree was kept. */
function reopened(input: ArchiveInput, storage: ArchiveStorage, identity: string, kept: ConvertedTree): LegacyArchive {
  const { layerOffset, placement, start, length, hash } = kept;
  const table = tableOf(layerOffset, { start, length, hash });
  const end = layerOffset[table.count]!;
  if (storage.kind === 'local' && end > input.size) {
    throw new FormatError(
      `${input.name}: index`,
      0,
      `data ends at byte ${end}, but the file has ${input.size}: truncated`,
    );
  }
  return {
    version: 1,
    storage,
    image: imageOfData(storage, input.name, identity, end),
    tree: shared(kept.tree),
    treeBytes: kept.tree.length,
    layers: [{ table }],
    placement: placement === null ? null : sharedPlacement(placement),
    profile: null,
    references: null,
    identity,
    digest: identity,
    sections: [],
    unindexed: [],
    checkpointState: () => null,
    section: () => null,
    entries: () => null,
    // Seldom asked for: not worth keeping.
    hashes: () => openLegacyArchive(input).hashes(),
    verify: () => {},
  };
}

/** Of a layer that is not indexed: nothing of it can be read. */
const NO_SPANS: SpanTable = {
  kind: 'gzip',
  count: 0,
  layerOffset: new Float64Array(1),
  bitOffset: new Float64Array(1),
  windowPosition: new Float64Array(0),
  windowLength: new Uint32Array(0),
  crc32: new Uint32Array(0),
  sha256: new Uint8Array(0),
  stateSha256: new Uint8Array(0),
};

/**
 * Version 1 says nothing of its data that could be checked beforehand, so two archives are the same only where they lie at the
 * same path and list the same files at the same places.
 */
function identityOf(name: string, header: LegacyHeader, index: Uint8Array, info: Uint8Array): string {
  const hash = createHash('sha256').update(`clip 1 ${header.storage} ${name}\0`);
  return `sha256:${hash.update(index).update(info).digest('hex')}`;
}

function checkEnds(
  entries: LegacyEntries,
  digests: readonly string[],
  indexes: readonly (LayerIndex | null)[],
  what: string,
): void {
  for (const [i, index] of indexes.entries()) {
    if (index === null || entries.ends[i]! <= index.meta.uncompressedSize) continue;
    const { uncompressedSize } = index.meta;
    throw new FormatError(
      what,
      0,
      `files of layer ${digests[i]} end at ${entries.ends[i]}, beyond its ${uncompressedSize}`,
    );
  }
}

function treeOf(entries: LegacyEntries, image: ImageMeta, what: string): { tree: Tree; erofs: ErofsImage } {
  const builder = new TreeBuilder({ literal: true });
  try {
    for (const [i, layer] of entries.layers.entries()) builder.applyLayer(i, layer);
    const tree = builder.finish();
    const devices = image.layers.map(({ digest, uncompressedSize }) => {
      return { tag: digest.slice('sha256:'.length), blocks: Math.ceil(uncompressedSize / 512) };
    });
    return { tree, erofs: writeErofs(tree, devices) };
  } catch (error) {
    throw refusal(error, what);
  }
}

function hashesOf({ hashes }: LegacyEntries, tree: Tree, { nids }: ErofsImage): FileHashes | null {
  const found: { nid: Nid; hash: string }[] = [];
  for (let inode = 0; inode < nids.length; inode++) {
    const nid = nids[inode]!;
    if (nid === 0 || (tree.mode(inode) & S_IFMT) !== S_IFREG || tree.layer(inode) !== 0) continue;
    const hash = hashes[tree.entry(inode)] ?? '';
    if (hash !== '') found.push({ nid, hash });
  }
  if (found.length === 0) return null;
  found.sort((a, b) => a.nid - b.nid);
  return {
    count: found.length,
    nid: Float64Array.from(found, ({ nid }) => nid),
    sha256: Buffer.from(found.map(({ hash }) => hash).join(''), 'hex'),
  };
}

/** A local or S3 archive is of a directory and not of an image: its reference is the place of its data. */
function imageOfData(storage: ArchiveStorage, name: string, identity: string, size: number): ImageMeta {
  const reference = storage.kind === 's3' ? `s3://${storage.bucket}/${storage.key}` : name;
  const digest = identity === '' ? `sha256:${'0'.repeat(64)}` : identity;
  return {
    reference,
    registry: '',
    repository: '',
    manifestDigest: digest,
    platform: { os: 'linux', architecture: 'unknown' }, // a directory is of no processor
    config: {},
    layers: identity === '' ? [] : [{ digest, mediaType: '', size, diffId: digest, uncompressedSize: size }],
  };
}

function metaOf(digest: string, oci: OciLocation, end: number): LayerMeta {
  const noted = oci.metadata.layers.get(digest);
  return {
    digest,
    mediaType: noted?.mediaType ?? '',
    size: noted?.size ?? 0,
    diffId: digest,
    uncompressedSize: end,
  };
}

const IMAGE_DIGEST = /^sha256:[0-9a-f]{64}$/;

function imageOfOci(oci: OciLocation, layers: readonly LayerMeta[], name: string): ImageMeta {
  const { registry, repository, reference, metadata } = oci;
  const what = `${name}: storage info`;
  if (registry === '' || repository === '') throw new FormatError(what, 0, 'a registry and a repository expected');
  const fault = placeFault(oci);
  if (fault !== null) throw new FormatError(what, 0, fault);
  const joint = reference.includes(':') ? '@' : ':';
  const { labels, env, cmd, entrypoint, user, workingDir, variant } = metadata;
  const digest = [metadata.digest, reference].find((text) => IMAGE_DIGEST.test(text));
  return {
    reference: `${registry}/${repository}${joint}${reference === '' ? 'latest' : reference}`,
    registry,
    repository,
    // Layers are fetched by their own digests. Where no manifest is noted, this names the set of them.
    manifestDigest: digest ?? `sha256:${createHash('sha256').update(oci.layers.join()).digest('hex')}`,
    platform: {
      os: metadata.os === '' ? 'linux' : metadata.os,
      architecture: metadata.architecture === '' ? 'unknown' : metadata.architecture,
      ...(variant === '' ? {} : { variant }),
    },
    config: {
      config: {
        ...(user === '' ? {} : { User: user }),
        ...(workingDir === '' ? {} : { WorkingDir: workingDir }),
        ...(env.length === 0 ? {} : { Env: env }),
        ...(cmd.length === 0 ? {} : { Cmd: cmd }),
        ...(entrypoint.length === 0 ? {} : { Entrypoint: entrypoint }),
        ...(Object.keys(labels).length === 0 ? {} : { Labels: labels }),
      },
    },
    layers,
  };
}
