/**
 * The `.clip` archive, version 3: sections, span tables, checkpoint states (docs/format.md). It turns bytes into checked values and
 * back; opening files is check/'s, making the contents index/'s. No I/O. Runs in every process.
 */

export { MAGIC, MAX_SPAN_OUTPUT, MAX_SPANS, MIN_SPAN_BYTES, SectionKind, type SectionName, VERSION } from './format.js';
export { placeFault } from './image-meta.js';
export { LEGACY_CHECKPOINT_MIB, layerIndexName } from './layer-index-name.js';
export {
  type Archive,
  type ArchiveInput,
  type OpenOptions,
  openArchive,
  readDigest,
  readImageMeta,
  relocateArchive,
  type SectionInfo,
} from './reader.js';
export { decodeReferences, encodeReferences, REFERENCE_PAGE, SEGMENT_START } from './references.js';
export {
  decodeSpanTable,
  encodedTableDigest,
  encodeSpanTable,
  type SpanColumns,
  spanFault,
  spanTableDigest,
  stateDigest,
} from './span-table.js';
export type {
  ArchiveStorage,
  BlockColumns,
  FileHashes,
  ImageMeta,
  LayerKind,
  LayerMeta,
  Profile,
  References,
  S3Location,
  SpanTable,
} from './types.js';
export { type ArchiveContents, buildArchive, deflateSection, type LayerContents, writeArchive } from './writer.js';
