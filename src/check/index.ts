/**
 * Archives as files: opening them with their checks, and verifying every span and file against registry or cache. Runs in the
 * server (opening) and in clients (`clipctl ls`, `inspect`, `verify`).
 */

export { ArchiveFile, fileKey } from './archive-file.js';
export { readArchiveImage } from './read-image.js';
export { type SpanSource, type VerifyProgress, type VerifyResult, verifyArchive } from './verify.js';
