/**
 * What a program can do with an archive without mounting it: describe it, list and read its files, verify it, shape it for a workload.
 * Reading the file is check/'s, and indexing index/'s. Runs in clients.
 */

export type { FileType } from '../erofs/index.js';
export { type ArchiveDiff, type DiffField, type DiffLayer, type DiffPath, diffArchives } from './diff.js';
export { FilePaths } from './file-paths.js';
export { type FileEntry, type ListOptions, listFiles, type ReadOptions, readFile } from './files.js';
export {
  type ArchiveInfo,
  describeArchive,
  inspectArchive,
  type LayerInfo,
  type SectionDescription,
} from './inspect.js';
export {
  checkBelongs,
  type OptimizeOptions,
  type OptimizeResult,
  optimizeArchive,
  rewriteArchive,
} from './optimize.js';
export { type SourceAccess, type VerifyOptions, verifyArchive } from './verify.js';
