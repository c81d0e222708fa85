import { buildArchive, deflateSection, openArchive } from '../archive/index.js';
import { FormatError } from '../bytes/index.js';
import { writeErofs } from '../erofs/index.js';
import { packEntries } from '../tar/index.js';
import { TreeBuilder } from '../tree/index.js';
import type { IndexedLayer } from './indexed-layer.js';
import { decodeScan, encodeScan } from './layer-scan.js';

/*
 * The index of a single layer: an archive of one layer with an empty tree, and two sections more (docs/format.md, "The index of a
 * layer"). It depends on the layer and the checkpoint setting alone, so that images put their archives together from the indexes of
 * the layers they share.
 */

/** The layer that an index must be of. */
export interface LayerWanted {
  readonly digest: string;
  /** Bytes of the blob. */
  readonly size: number;
  readonly checkpointMiB: number;
  /** With the SHA-256 of the tar and of each file. */
  readonly hashes: boolean;
}

export async function encodeLayerIndex(
  { digest, size, checkpointMiB }: Omit<LayerWanted, 'hashes'>,
  layer: IndexedLayer,
): Promise<Uint8Array[]> {
  const raw = packEntries(layer.entries);
  const { contents, uncompressedSize, files, diffId } = layer;
  const scan = encodeScan({ ...layer, checkpointMiB, unhashed: files?.skipped ?? 0 });
  // On other threads: this one feeds those that read the other layers, or ends the image's archive.
  const [stored, storedScan] = await Promise.all([deflateSection(raw), deflateSection(scan)]);
  const meta = { digest, mediaType: '', size, diffId: diffId ?? digest, uncompressedSize };
  const platform = { os: '', architecture: '' };
  const image = { reference: digest, registry: '', repository: '', manifestDigest: digest, platform, config: {} };
  const device = { tag: digest.slice(digest.indexOf(':') + 1), blocks: Math.ceil(uncompressedSize / 512) };
  return buildArchive({
    image: { ...image, layers: [meta] },
    tree: writeErofs(new TreeBuilder().finish(), [device]).image,
    layers: [contents],
    // By place in the layer: the nids of an image are not those of another.
    hashes: files === null ? null : { count: files.dataOffset.length, nid: files.dataOffset, sha256: files.sha256 },
    entries: { raw, stored },
    scan: { raw: scan, stored: storedScan },
  }).parts;
}

/**
 * Checks all that an index build relies on. Checkpoint states are checked as they are stored; each is checked again when a span is
 * read with it.
 * @param name of the file or artifact, for errors
 * @returns null for an index that is well-formed, but of another version of clip, or without hashes that are wanted
 * @throws FormatError, ClipError LIMIT
 */
export function decodeLayerIndex(bytes: Uint8Array, name: string, wanted: LayerWanted): IndexedLayer | null {
  const archive = openArchive({
    name,
    size: bytes.length,
    readAt: (offset, length) => bytes.subarray(offset, offset + length),
  });
  const [meta, opened] = [archive.image.layers[0], archive.layers[0]];
  const fail = (detail: string): never => {
    throw new FormatError(name, 0, detail);
  };
  if (archive.layers.length !== 1 || meta === undefined || opened === undefined)
    return fail('not the index of a layer');
  if (meta.digest !== wanted.digest || meta.size !== wanted.size)
    return fail(`the index of layer ${meta.digest} of ${meta.size} bytes, ${wanted.digest} of ${wanted.size} expected`);
  const [entries, raw] = [archive.entries(), archive.section('scan')];
  if (entries === null || raw === null) return fail('not the index of a layer');
  const scan = decodeScan(raw, `${name}: section scan`, entries.count);
  const hashes = archive.hashes();
  if (scan === null || (wanted.hashes && hashes === null)) return null;
  if (scan.checkpointMiB !== wanted.checkpointMiB)
    return fail(`checkpoints every ${scan.checkpointMiB} MiB, ${wanted.checkpointMiB} expected`);
  const { table } = opened;
  const windows = archive.section('windows')!; // required
  const states = Array.from({ length: table.count }, (_, i) =>
    windows.subarray(table.windowPosition[i]!, table.windowPosition[i]! + table.windowLength[i]!),
  );
  return {
    contents: { spans: table, states },
    entries,
    uncompressedSize: meta.uncompressedSize,
    files: hashes === null ? null : { dataOffset: hashes.nid, sha256: hashes.sha256, skipped: scan.unhashed },
    diffId: hashes === null ? null : meta.diffId,
    references: scan.references,
    names: scan.names,
    warnings: scan.warnings,
  };
}
