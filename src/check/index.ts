export { ArchiveFile, fileKey } from './archive-file.js';
export { type SpanSource, type VerifyProgress, type VerifyResult, verifyArchive } from './verify.js';
