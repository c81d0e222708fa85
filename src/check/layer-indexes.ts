import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import {
  type ArchiveInput,
  type ImageMeta,
  LEGACY_CHECKPOINT_MIB,
  layerIndexName,
  openArchive,
} from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import type { LayerProgress } from '../index/index.js';
import { HEADER_SIZE, isLegacyHeader, type LayerIndex, readLegacyOrigin } from '../legacy/index.js';
import type { ImageSource, LayerDescriptor } from '../oci/index.js';
import { openRegularFile } from '../paths/index.js';

import { LegacyTrees } from './legacy-trees.js';

/**
 * What is known of layers that version 1 archives are of. Each layer is indexed once, when the first archive that has it is
 * mounted, and its index is kept in `layers/`, where an image that has the layer finds it, too.
 */
export class LayerIndexes {
  /** Of archives that hold their data. */
  readonly trees: LegacyTrees;
  readonly #directory: string;
  readonly #open: number[] = [];

  /** @param cacheDirectory a clipd's; the indexes are in its `layers/`, written by rename, without its lock */
  constructor(cacheDirectory: string) {
    this.trees = new LegacyTrees(cacheDirectory);
    this.#directory = join(cacheDirectory, 'layers');
  }

  #path(digest: string): string {
    return join(this.#directory, layerIndexName(digest, LEGACY_CHECKPOINT_MIB));
  }

  /** The index of a layer; null when it has none, or one that is damaged and must be made again. Its file stays open. */
  get(digest: string): LayerIndex | null {
    let fd: number;
    try {
      fd = openSync(this.#path(digest), 'r');
    } catch {
      return null;
    }
    try {
      const archive = openArchive({
        name: this.#path(digest),
        size: fstatSync(fd).size,
        readAt: (offset, length) => {
          const bytes = Buffer.allocUnsafeSlow(length);
          return bytes.subarray(0, readSync(fd, bytes, 0, length, offset));
        },
      });
      const [meta, layer] = [archive.image.layers[0], archive.layers[0]];
      if (meta?.digest === digest && layer !== undefined) {
        this.#open.push(fd);
        return { meta, table: layer.table, checkpointState: (span) => archive.checkpointState(0, span) };
      }
    } catch (error) {
      if (!(error instanceof ClipError)) {
        closeSync(fd);
        throw error;
      }
    }
    closeSync(fd);
    return null;
  }

  /**
   * Indexes layers: reads each of them once, checked against its digest.
   * @throws ClipError naming the layer
   */
  async make(
    image: ImageMeta,
    digests: readonly string[],
    source: ImageSource,
    options: {
      readonly signal?: AbortSignal | undefined;
      readonly onProgress?: ((progress: LayerProgress) => void) | undefined;
    } = {},
  ): Promise<void> {
    const { LayerIndexDirectory, writeLayerIndexes } = await import('../index/index.js');
    const layers = await describe(image, digests, source, options.signal);
    await writeLayerIndexes(layers, source, new LayerIndexDirectory(this.#directory), options);
  }

  close(): void {
    for (const fd of this.#open.splice(0)) closeSync(fd);
  }
}

/** Sizes and media types: from the archive, or, where it has noted none, from the manifest. */
async function describe(
  image: ImageMeta,
  digests: readonly string[],
  source: ImageSource,
  signal: AbortSignal | undefined,
): Promise<LayerDescriptor[]> {
  const known = new Map(image.layers.map((layer) => [layer.digest, layer]));
  const needsManifest = digests.some((digest) => (known.get(digest)?.size ?? 0) === 0);
  const manifest = needsManifest ? await source.resolve({ signal }) : null;
  return digests.map((digest) => {
    const noted = known.get(digest);
    const found = manifest?.layers.find((layer) => layer.digest === digest);
    const size = noted !== undefined && noted.size > 0 ? noted.size : found?.size;
    if (size === undefined) {
      throw new ClipError('NOT_FOUND', `${image.reference} has no layer ${digest} any more`, {
        hint: 'index the image again: clipctl index --image REF --out FILE',
      });
    }
    // The config's diff ID is not asked for: version 1 archives noted wrong ones, and the blob's digest says more.
    return { digest, mediaType: noted?.mediaType || (found?.mediaType ?? ''), size, diffId: digest };
  });
}

/** The layers of a version 1 archive of an image that `indexes` does not know; null when it lacks none. @throws FormatError */
export function unindexedLayers(
  archivePath: string,
  indexes: LayerIndexes,
): { image: ImageMeta; digests: readonly string[] } | null {
  let fd: number;
  try {
    fd = openRegularFile(archivePath);
  } catch {
    return null; // the mount says why
  }
  try {
    const { size } = fstatSync(fd);
    const input: ArchiveInput = {
      name: archivePath,
      size,
      readAt: (offset, length) => {
        const bytes = Buffer.allocUnsafeSlow(Math.max(0, Math.min(length, size - offset)));
        return bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, offset));
      },
    };
    if (!isLegacyHeader(input.readAt(0, HEADER_SIZE))) return null;
    const { storage, image } = readLegacyOrigin(input);
    if (storage.kind !== 'oci') return null;
    const digests = image.layers.map(({ digest }) => digest).filter((digest) => indexes.get(digest) === null);
    return digests.length === 0 ? null : { image, digests };
  } finally {
    indexes.close();
    closeSync(fd);
  }
}
