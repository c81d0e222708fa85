/**
 * The merged file tree of an image: layers applied in order, with whiteouts, hard links and the rules of the runtimes where tools
 * differ. Columns of numbers, not objects. No format on disk, which is erofs/'s. No I/O. Runs in the main thread of an index build.
 */

export { TreeBuilder } from './builder.js';
export { Tree, type TreeStats } from './tree.js';
