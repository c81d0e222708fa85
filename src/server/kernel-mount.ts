import { rmSync, symlinkSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import { BLOCK, layerFileName } from '../erofs/index.js';
import { openErofs, readsDirectly, setReadAhead } from '../linux/index.js';
import type { OwnDirectory } from '../paths/index.js';
import type { KernelTree } from '../plane/index.js';
import { type ConnectionState, kernelSourceName } from '../wire/index.js';

/**
 * Of a mount whose layers are all files of the disk, read with O_DIRECT. No file system below reads ahead for it, and the kernel's default of
 * 128 KiB asks the disk for too little at a time (docs/internals/erofs.md, "Read-ahead and double caching"). What clipd may have to fetch is
 * read ahead no further than that: a page fault in the middle of a file reads this much around its page.
 */
const READ_AHEAD = 1 << 20;

/** The kernel does not mount an image whose tree and layers it was given. */
export class KernelMountError extends Error {
  constructor(override readonly cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause));
  }

  asClipError(): ClipError {
    return new ClipError('UNSUPPORTED', `--plane kernel: ${this.message}`, {
      cause: this.cause,
      hint: '--plane auto takes the kernel where it can, and FUSE otherwise',
    });
  }
}

/**
 * Lets the kernel mount an image. It reads a layer from the cache's own file where it is given one; the other layers are files of
 * the connection, which FUSE workers answer for while this thread waits. The mount's source says whose it is (`ownClipMount`).
 * @param files by layer: a descriptor of the cache's file, or null. One more file of the connection keeps it as long as the mount lives
 * @returns the root of the mount, which is nowhere in the tree yet
 * @throws KernelMountError with the kernel's own words
 */
export function mountInKernel(
  root: OwnDirectory,
  state: ConnectionState,
  tree: KernelTree,
  files: readonly (number | null)[],
): number {
  const name = `mnt/${kernelSourceName(state.id)}`;
  const link = root.at(name);
  rmSync(link, { force: true });
  symlinkSync(tree.path, link);
  try {
    const devices = [...files, null].map((fd, i) =>
      fd === null ? `${state.anchor}/${layerFileName(i)}` : `/proc/self/fd/${fd}`,
    );
    // The connection's files have no page cache of their own then, and so no read-ahead that crosses the ends of the image's files.
    const directio = files.every((fd) => fd === null || readsDirectly(fd, BLOCK));
    const mount = openErofs(`${root.path}/${name}`, devices, { directio });
    if (directio && !files.includes(null)) setReadAhead(mount, READ_AHEAD);
    return mount;
  } catch (cause) {
    throw new KernelMountError(cause);
  } finally {
    rmSync(link, { force: true });
  }
}
