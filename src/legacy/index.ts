/**
 * Archives of the Go predecessor, version 1 (docs/legacy.md): a pure codec. Reading gives the same kind of archive that version 3
 * does, so that nothing above this folder tells them apart; writing gives what the Go program reads. Files, S3 and registries are
 * not this folder's business. Runs in every process that opens archives.
 */
export { type Block, type BlockCuts, blockTable, MAX_WHOLE_BLOCK } from './blocks.js';
export { BLOCK_SUM_SIZE, BLOCK_TYPE_FILE, BLOCK_TYPE_SIZE, HEADER_SIZE, NodeType } from './format.js';
export { decodeHeader, isLegacyHeader, type LegacyHeader } from './header.js';
export type { LegacyNode } from './node.js';
export {
  type ConvertedTree,
  type KnownTrees,
  type LayerIndex,
  type LegacyArchive,
  type LegacyOrigin,
  openLegacyArchive,
  readLegacyOrigin,
} from './open.js';
export { sameData } from './tree.js';
export { encodeIndex, localEnd, s3Archive } from './writer.js';
