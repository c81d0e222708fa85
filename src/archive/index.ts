export { SectionKind, type SectionName } from './format.js';
export { type Archive, type ArchiveInput, openArchive, readImageMeta, type SectionInfo } from './reader.js';
export { decodeReferences, encodeReferences, REFERENCE_PAGE } from './references.js';
export { decodeSpanTable, encodeSpanTable, type SpanColumns } from './span-table.js';
export type { FileHashes, ImageMeta, LayerKind, LayerMeta, Profile, References, SpanTable } from './types.js';
export { type ArchiveContents, buildArchive, deflateTree, type LayerContents, writeArchive } from './writer.js';
