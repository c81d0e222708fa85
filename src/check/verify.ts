import { createHash } from 'node:crypto';
import type { Archive } from '../archive/index.js';
import type { LayerIndex, Nid, SpanIndex } from '../bytes/index.js';
import { ClipError, updateZeros } from '../bytes/index.js';
import { ErofsReader, InodeView, mapFileRange } from '../erofs/index.js';
import { SpanReader } from '../lazy/index.js';
import type { ImageSource } from '../oci/index.js';

export interface VerifyProgress {
  readonly digest: string;
  readonly done: number;
  readonly total: number;
  readonly rate: number;
}

/** Gives spans, checked by digest or CRC-32 as they come; null: it does not have this one, which is no fault of a cache. */
export interface SpanSource {
  /** @throws ClipError DIGEST_MISMATCH or BAD_FORMAT when they are not right, others when it cannot be reached */
  read(layer: LayerIndex, span: SpanIndex, signal?: AbortSignal): Promise<Uint8Array | null>;
}

export interface VerifyResult {
  /** Distinct layers, and spans in them that were checked. */
  readonly layers: number;
  readonly spans: number;
  /** Spans that the source does not have. */
  readonly absent: number;
  readonly compressedBytes: number;
  /** Files whose content was compared with the digest in the archive. 0 without a hashes section. */
  readonly files: number;
  /** One line for each thing that is wrong. */
  readonly problems: readonly string[];
  /** Of an archive of version 1: files whose content hash is not that of their content, which is right by its own checksum. */
  readonly wrongHashes: readonly string[];
}

/** A file whose content comes by, piece by piece, as its layer is read. */
interface Pending {
  readonly nid: Nid;
  readonly sha256: Uint8Array;
  readonly pieces: readonly { readonly start: number; readonly end: number; readonly holeBefore: number }[];
  readonly holeAfter: number;
}

/** The pieces of each hashed file, by the layer they lie in. A file never spans layers. */
function filesByLayer(archive: Archive): { byLayer: Pending[][]; empty: number; problems: string[] } {
  const byLayer: Pending[][] = archive.layers.map(() => []);
  const problems: string[] = [];
  let empty = 0;
  const hashes = archive.hashes();
  if (hashes === null) return { byLayer, empty, problems };
  const reader = new ErofsReader(archive.tree);
  const inode = new InodeView();
  for (let f = 0; f < hashes.count; f++) {
    const nid = hashes.nid[f]!;
    const sha256 = hashes.sha256.subarray(32 * f, 32 * f + 32);
    reader.inode(nid, inode);
    const { size } = inode;
    const pieces: { start: number; end: number; holeBefore: number }[] = [];
    let layerOf = -1;
    let hole = 0;
    mapFileRange(reader, archive.placement, inode, nid, 0, size, (layer, layerOffset, length) => {
      if (layer < 0) {
        hole += length;
        return;
      }
      pieces.push({ start: layerOffset, end: layerOffset + length, holeBefore: hole });
      layerOf = layer;
      hole = 0;
    });
    if (layerOf >= 0) byLayer[layerOf]!.push({ nid, sha256, pieces, holeAfter: hole });
    else {
      const hash = createHash('sha256');
      updateZeros(hash, size);
      if (Buffer.compare(hash.digest(), sha256) !== 0)
        problems.push(`file nid ${nid}: its content has another SHA-256`);
      empty++;
    }
  }
  // In the order of the tar: then each span is read once.
  for (const files of byLayer) files.sort((a, b) => a.pieces[0]!.start - b.pieces[0]!.start);
  return { byLayer, empty, problems };
}

/** Feeds a layer's bytes, in order, to the files that lie in it. Files are one after another in a tar. */
class FileChecker {
  readonly #files: readonly Pending[];
  readonly #problems: string[];
  #file = 0;
  #piece = 0;
  #hash = createHash('sha256');
  checked = 0;
  /** Bytes of this file are missing: its span was bad. */
  #broken = false;

  constructor(files: readonly Pending[], problems: string[]) {
    this.#files = files;
    this.#problems = problems;
  }

  /** Bytes [start, start + length) of the layer; null when they could not be read. */
  push(start: number, length: number, bytes: Uint8Array | null): void {
    const end = start + length;
    for (;;) {
      const file = this.#files[this.#file];
      if (file === undefined) return;
      const piece = file.pieces[this.#piece]!;
      if (piece.start >= end) return;
      if (piece.start >= start) updateZeros(this.#hash, piece.holeBefore);
      const [from, to] = [Math.max(piece.start, start), Math.min(piece.end, end)];
      if (bytes === null) this.#broken = true;
      else this.#hash.update(bytes.subarray(from - start, to - start));
      if (piece.end > end) return;
      if (++this.#piece === file.pieces.length) this.#endFile(file);
    }
  }

  #endFile(file: Pending): void {
    updateZeros(this.#hash, file.holeAfter);
    const matches = Buffer.compare(this.#hash.digest(), file.sha256) === 0;
    if (!this.#broken && !matches) this.#problems.push(`file nid ${file.nid}: its content has another SHA-256`);
    if (!this.#broken) this.checked++;
    this.#hash = createHash('sha256');
    this.#broken = false;
    this.#piece = 0;
    this.#file++;
  }
}

/**
 * Fetches every span of every layer, from the registry or from a cache, and checks it as a mount would; with a hashes section, every file's content too. Goes on
 * after a bad span; what cannot be reached at all (no such registry, no login) throws.
 */
export async function verifyArchive(
  archive: Archive,
  source: Pick<ImageSource, 'fetchInto'> | SpanSource,
  options: { signal?: AbortSignal; onProgress?: (progress: VerifyProgress) => void } = {},
): Promise<VerifyResult> {
  archive.verify();
  const reader: SpanSource = 'read' in source ? source : new SpanReader(archive, source);
  const { byLayer, empty, problems } = filesByLayer(archive);
  // Old archives have wrong hashes of right files (docs/legacy.md, "What is checked").
  const wrongHashes: string[] = archive.version === 1 ? [] : problems;
  const done = new Set<unknown>();
  let [layers, spans, absent, compressedBytes, files] = [0, 0, 0, 0, empty];
  for (const [layer, { table }] of archive.layers.entries()) {
    const { digest, size: total } = archive.image.layers[layer]!;
    // A layer used twice is read again only for the files of its second use.
    if (done.has(table) && byLayer[layer]!.length === 0) continue;
    const again = done.has(table);
    done.add(table);
    const checker = new FileChecker(byLayer[layer]!, wrongHashes);
    const started = performance.now();
    let bytesDone = 0;
    let missing = 0;
    let bytesMissing = 0;
    for (let span = 0; span < table.count; span++) {
      options.signal?.throwIfAborted();
      const start = table.layerOffset[span]!;
      const length = table.layerOffset[span + 1]! - start;
      let bytes: Uint8Array | null = null;
      try {
        bytes = await reader.read(layer, span, options.signal);
        if (bytes === null) {
          missing++;
          bytesMissing += Math.ceil((table.bitOffset[span + 1]! - table.bitOffset[span]!) / 8);
        }
      } catch (error) {
        const wrong = error instanceof ClipError && (error.code === 'DIGEST_MISMATCH' || error.code === 'BAD_FORMAT');
        if (!wrong) throw error;
        if (!again) problems.push(error.message);
        if (table.kind === 'zstd-stream' && reader instanceof SpanReader) break; // nothing behind it can be decoded
      }
      checker.push(start, length, bytes);
      bytesDone += Math.ceil((table.bitOffset[span + 1]! - table.bitOffset[span]!) / 8);
      const rate = bytesDone / ((performance.now() - started) / 1000);
      options.onProgress?.({ digest, done: Math.min(bytesDone, total), total, rate });
    }
    if (table.count > 0)
      options.onProgress?.({ digest, done: total, total, rate: bytesDone / ((performance.now() - started) / 1000) });
    files += checker.checked;
    if (again) continue;
    layers++;
    spans += table.count - missing;
    absent += missing;
    compressedBytes += bytesDone - bytesMissing;
  }
  return {
    layers,
    spans,
    absent,
    compressedBytes,
    files,
    problems,
    wrongHashes: archive.version === 1 ? wrongHashes : [],
  };
}
