/**
 * Archives of version 1, made and unpacked: a directory packed with its data, uploaded to S3, unpacked again; an old archive of an
 * image made anew. Runs in clients; pack-worker.ts is the thread that reads, checks and writes files.
 */
export { type ConvertOptions, convertArchive } from './convert.js';
export { type CreateArchiveOptions, type CreateArchiveResult, createArchive } from './create.js';
export { type ExtractArchiveOptions, type ExtractArchiveResult, extractArchive } from './extract.js';
export { createAndUploadArchive, type S3Target, type StoreS3Options, type StoreS3Result, storeS3 } from './store.js';
