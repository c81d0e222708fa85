import { spanTableDigest } from '../archive/index.js';
import { ArchiveFile } from '../check/index.js';
import { decodeLayerIndex, LayerIndexDirectory } from '../index/index.js';
import { type ArtifactRepository, layerTag } from '../oci/index.js';

/** Uploads at a time. */
const MAX_UPLOADS = 4;

export interface PushedLayers {
  /** Indexes that are in the registry now. */
  readonly layers: number;
  /** Those of them that were not there before. */
  readonly changed: number;
}

/**
 * Stores the indexes of an archive's layers, as far as they are kept in `directory` and have the archive's spans, under the tags by
 * which an image with one of these layers finds them.
 * @throws ClipError UNAUTHORIZED, NETWORK
 */
export async function pushLayerIndexes(
  archivePath: string,
  directory: string,
  artifacts: ArtifactRepository,
  signal?: AbortSignal,
  onProgress?: (layer: string, done: number, total: number) => void,
): Promise<PushedLayers> {
  const kept = new LayerIndexDirectory(directory);
  const file = ArchiveFile.open(archivePath);
  const waiting = new Map(
    file.archive.image.layers.map((meta, i) => [
      meta.digest,
      { meta, spans: spanTableDigest(file.archive.layers[i]!.table) },
    ]),
  );
  file.close();
  let [layers, changed] = [0, 0];
  const push = async (): Promise<void> => {
    for (const [digest, { meta, spans }] of waiting) {
      waiting.delete(digest);
      for (const checkpointMiB of kept.settingsOf(digest)) {
        const bytes = kept.read(digest, checkpointMiB);
        if (bytes === null) continue;
        const wanted = { digest, size: meta.size, checkpointMiB, hashes: false };
        const index = decodeLayerIndex(bytes, kept.nameOf(digest, checkpointMiB), wanted);
        if (index === null || spanTableDigest(index.contents.spans) !== spans) continue;
        const pushed = await artifacts.pushLayer(bytes, layerTag(digest, checkpointMiB), signal, (done, total) =>
          onProgress?.(digest, done, total),
        );
        layers++;
        if (pushed.changed) changed++;
      }
    }
  };
  await Promise.all(Array.from({ length: MAX_UPLOADS }, push));
  return { layers, changed };
}
