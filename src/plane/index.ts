/**
 * The kernel plane: whether this machine's kernel can serve images by its own EROFS, the trees that are written for it, and the mount as
 * the kernel makes it. Places, anchors and what carries the layers' bytes are the keeper's and the server's. Runs in a server;
 * the probe in a client, too.
 */

export { type KernelTree, KernelTrees } from './kernel-trees.js';
export { type KernelSupport, probeKernelPlane } from './support.js';
