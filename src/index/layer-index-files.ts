import { LEGACY_CHECKPOINT_MIB } from '../archive/index.js';
import type { ImageSource, LayerDescriptor } from '../oci/index.js';
import { checkpointBytes } from './create.js';
import { indexLayers } from './image-layers.js';
import type { Lane } from './lane.js';
import { encodeLayerIndex } from './layer-index.js';
import type { LayerIndexDirectory } from './layer-index-directory.js';
import { IndexProgress, type LayerProgress } from './progress.js';

/**
 * Indexes layers alone, for archives of the Go program, which know the tree but no checkpoints.
 * @throws ClipError naming the layer
 */
export async function writeLayerIndexes(
  layers: readonly LayerDescriptor[],
  source: ImageSource,
  directory: LayerIndexDirectory,
  options: {
    readonly signal?: AbortSignal | undefined;
    readonly onProgress?: ((progress: LayerProgress) => void) | undefined;
  },
): Promise<void> {
  const { signal, onProgress } = options;
  const lanes: Lane[] = [];
  const written: Promise<void>[] = [];
  const progress = new IndexProgress(layers, onProgress);
  const how = { spanBytes: checkpointBytes(LEGACY_CHECKPOINT_MIB), cuts: undefined, hashes: false, signal, progress };
  try {
    await indexLayers(lanes, source, layers, how, ({ digest, size }, indexed) => {
      const write = async (): Promise<void> => {
        const parts = await encodeLayerIndex({ digest, size, checkpointMiB: LEGACY_CHECKPOINT_MIB }, indexed);
        await directory.write(digest, LEGACY_CHECKPOINT_MIB, parts);
      };
      const writing = write();
      writing.catch(() => {}); // told below
      written.push(writing);
    });
    await Promise.all(written);
  } finally {
    await Promise.allSettled([...written, ...lanes.map((lane) => lane.close())]);
  }
}
