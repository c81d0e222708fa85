import { rmSync, symlinkSync } from 'node:fs';
import { layerFileName } from '../erofs/index.js';
import { openErofs } from '../linux/index.js';
import type { OwnDirectory } from '../paths/index.js';
import type { KernelTree } from '../plane/index.js';
import { type ConnectionState, kernelSourceName } from '../wire/index.js';

/**
 * Lets the kernel mount an image whose layers are the files of a connection, which FUSE workers answer for: the calling thread waits for
 * them. The mount's source says whose it is (`ownClipMount`).
 * @param layers how many; one more file keeps the connection as long as the mount lives
 * @returns the root of the mount, which is nowhere in the tree yet
 * @throws SystemCallError with the kernel's own words
 */
export function mountInKernel(root: OwnDirectory, state: ConnectionState, tree: KernelTree, layers: number): number {
  const name = `mnt/${kernelSourceName(state.id)}`;
  const link = root.at(name);
  rmSync(link, { force: true });
  symlinkSync(tree.path, link);
  try {
    const devices = Array.from({ length: layers + 1 }, (_, i) => `${state.anchor}/${layerFileName(i)}`);
    return openErofs(`${root.path}/${name}`, devices);
  } finally {
    rmSync(link, { force: true });
  }
}
