import { buildArchive, type ImageMeta, type LayerMeta } from '../archive/index.js';
import { writeErofs } from '../erofs/index.js';
import type { ImageSource, LayerDescriptor } from '../oci/index.js';
import { TreeBuilder } from '../tree/index.js';
import { checkpointBytes } from './create.js';
import { type IndexedLayer, indexLayers, type LayerProgress } from './image-layers.js';
import type { Lane } from './lane.js';
import { writeFileByRename } from './output-file.js';

/**
 * Indexes layers alone, for archives of the Go program, which know the tree but no checkpoints: each layer's index becomes a file
 * of its own, an archive of one layer with an empty tree.
 * @throws ClipError naming the layer
 */
export async function writeLayerIndexes(
  image: ImageMeta,
  layers: readonly LayerDescriptor[],
  source: ImageSource,
  pathOf: (digest: string) => string,
  options: {
    readonly signal?: AbortSignal | undefined;
    readonly onProgress?: ((progress: LayerProgress) => void) | undefined;
  },
): Promise<void> {
  const { signal, onProgress } = options;
  const lanes: Lane[] = [];
  const written: Promise<void>[] = [];
  const how = { spanBytes: checkpointBytes(), cuts: undefined, hashes: false, signal, onProgress, onWarning: () => {} };
  try {
    await indexLayers(lanes, source, layers, how, (digest, indexed) => {
      const { mediaType, size, diffId } = layers.find((layer) => layer.digest === digest)!;
      const meta = { digest, mediaType, size, diffId, uncompressedSize: indexed.uncompressedSize };
      const { parts } = buildArchive(ofOneLayer(image, meta, indexed.contents));
      const writing = writeFileByRename(pathOf(digest), parts, signal);
      writing.catch(() => {}); // told below
      written.push(writing);
    });
    await Promise.all(written);
  } finally {
    await Promise.allSettled([...written, ...lanes.map((lane) => lane.close())]);
  }
}

function ofOneLayer(
  image: ImageMeta,
  meta: LayerMeta,
  contents: IndexedLayer['contents'],
): Parameters<typeof buildArchive>[0] {
  const device = { tag: meta.digest.slice('sha256:'.length), blocks: Math.ceil(meta.uncompressedSize / 512) };
  const tree = writeErofs(new TreeBuilder().finish(), [device]).image;
  return { image: { ...image, config: {}, layers: [meta] }, tree, layers: [contents] };
}
