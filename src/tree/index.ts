export { TreeBuilder } from './builder.js';
export { Tree, type TreeStats } from './tree.js';
