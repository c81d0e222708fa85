/**
 * A whole image as a directory, for machines without FUSE and for programs that touch everything. No mount and no clipd: runs in the
 * process that asks, and in threads of its own.
 */
export { isUnfinished } from './journal.js';
export { type UnpackOptions, type UnpackProgress, type UnpackResult, unpackArchive } from './unpack.js';
