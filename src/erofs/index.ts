export { encodeDevice } from '../tar/index.js';
export { FT, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK } from './format.js';
export { InodeView } from './inode.js';
export type { Placement } from './placement.js';
export { type DirentCallback, ErofsReader, type RangeCallback } from './reader.js';
export { resolvePath } from './tree-path.js';
export { treeWarnings } from './warnings.js';
export { type ErofsDevice, type ErofsImage, type ErofsOptions, type ErofsStats, writeErofs } from './writer.js';
