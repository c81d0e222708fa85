/**
 * The tree as an EROFS image: layout, writer, reader, and where the bytes of a file lie in the layers. No I/O, no mounts. Runs in an
 * index build (writer), in every thread of a server and in the commands that list archives (reader).
 */

export { encodeDevice } from '../tar/index.js';
export { FileFinder, type FileStretch } from './file-finder.js';
export { firstByte, pathsOf, visitInodes } from './file-places.js';
export { type FileType, fileType } from './file-type.js';
export { BLOCK, FT, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK } from './format.js';
export { InodeView } from './inode.js';
export { mapFileRange } from './map-file.js';
export { type Placement, sharedPlacement } from './placement.js';
export { type DirentCallback, ErofsReader, type RangeCallback } from './reader.js';
export { layerFileName, REWRITE_VERSION, rewriteErofs, writeLayerFiles } from './rewrite.js';
export { TreeListing } from './tree-listing.js';
export { resolvePath } from './tree-path.js';
export type { TreeSource } from './tree-source.js';
export { WalkLimit } from './walk-limit.js';
export { treeWarnings } from './warnings.js';
export { type ErofsDevice, type ErofsImage, type ErofsOptions, writeErofs } from './writer.js';
