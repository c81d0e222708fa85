/**
 * From an image to an archive, and nothing else: the lanes that decode and digest layers, and the assembly of their results. Runs in
 * the process that asked for the index: a client, or a server that mounts an old archive whose layers were never indexed; decode-worker.ts and digest-worker.ts are the threads of a lane.
 */

export {
  type CreateFromOCIImageOptions,
  checkpointBytes,
  createFromOCIImage,
  INDEX_OPTIONS,
  type IndexExtras,
  type IndexResult,
  indexImage,
} from './create.js';
export { prepareLane } from './lane.js';
export { decodeLayerIndex } from './layer-index.js';
export { DEFAULT_LAYER_INDEX_BYTES, LayerIndexDirectory } from './layer-index-directory.js';
export { writeLayerIndexes } from './layer-index-files.js';
export { checkWritable, writeFileByRename } from './output-file.js';
export type { IndexStage, LayerProgress } from './progress.js';
