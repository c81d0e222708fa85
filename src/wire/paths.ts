import type { ConnectionId } from '../bytes/index.js';
import type { MountInfo } from '../linux/index.js';

/** The file system type of our connections (fuse + subtype), by which they are found again after a crash. */
const CLIP_FS_TYPE = 'fuse.clip';

/** What our mounts say of themselves in /proc/mounts, so that a later clipd with the same root knows them as its own. */
export function mountSource(root: string, id: ConnectionId): string {
  return `clip:${root}#${id}`;
}

/** The file system type of what the kernel serves itself. */
const KERNEL_FS_TYPE = 'erofs';

/**
 * Of the kernel's own mount the source is the file that it was made from: this name in the root's `mnt/`, a link that exists while the
 * mount is made. The kernel lets root alone mount EROFS, so the name can be believed.
 */
export function kernelSourceName(id: number): string {
  return `${id}.tree`;
}

/** Where the kernel's own mount of a connection is mounted, in the root's `mnt/`. */
export function imageAnchorName(id: number): string {
  return `${id}-image`;
}

/** The longest path that fsconfig(2) takes. */
const SOURCE_MAX = 255;

/** Whether the source of a root's kernel mounts can be named. */
export function kernelSourceFits(root: string): boolean {
  return Buffer.byteLength(`${root}/mnt/${kernelSourceName(Number.MAX_SAFE_INTEGER)}`) <= SOURCE_MAX;
}

/** What statfs(2) calls the file system of the kernel's own mounts. */
export const KERNEL_FS_MAGIC = 0xe0f5e1e2;

/** Where the connection of a kernel's mount is mounted, which the kernel asks for the layers. */
export function kernelAnchor({ root, id }: { readonly root: string; readonly id: number }): string {
  return `${root}/mnt/${id}`;
}

/**
 * Whose clipd made a mount, if this user's did: the file system type and the source are chosen by any user who mounts with
 * fusermount3, but the kernel and that program say who it was.
 */
export function ownClipMount(
  mount: MountInfo | undefined,
): { readonly root: string; readonly id: ConnectionId } | null {
  if (mount?.type === KERNEL_FS_TYPE) return process.geteuid?.() === 0 ? parseKernelSource(mount.source) : null;
  if (mount?.type !== CLIP_FS_TYPE) return null;
  return mount.superOptions.includes(`user_id=${process.geteuid?.() ?? 0}`) ? parseSource(mount.source) : null;
}

export function parseSource(source: string): { readonly root: string; readonly id: ConnectionId } | null {
  const match = /^clip:(\/.*)#(\d+)$/s.exec(source);
  return match === null ? null : { root: match[1]!, id: Number(match[2]) };
}

function parseKernelSource(source: string): { readonly root: string; readonly id: ConnectionId } | null {
  const match = /^(\/.*)\/mnt\/(\d+)\.tree$/s.exec(source);
  return match === null ? null : { root: match[1]!, id: Number(match[2]) };
}

/** Whether a mount says that a clipd made it, this user's or another's. */
export function isClipMount(mount: MountInfo | undefined): boolean {
  if (mount?.type === KERNEL_FS_TYPE) return parseKernelSource(mount.source) !== null;
  return mount?.type === CLIP_FS_TYPE;
}

/** Whether an absolute, normalised path is `directory` or lies below it. */
export function isWithin(path: string, directory: string): boolean {
  return path === directory || directory === '/' || path.startsWith(`${directory}/`);
}

/** The topmost mount at exactly this path: later lines cover earlier ones. */
export function mountAt(mounts: readonly MountInfo[], path: string): MountInfo | undefined {
  return mounts.findLast((mount) => mount.mountPoint === path);
}

/** The mount that a path is on: the deepest mount point above it, the last one where several are stacked. */
export function mountOf(mounts: readonly MountInfo[], path: string): MountInfo | undefined {
  let best: MountInfo | undefined;
  for (const mount of mounts) {
    if (!isWithin(path, mount.mountPoint)) continue;
    if (best === undefined || mount.mountPoint.length >= best.mountPoint.length) best = mount;
  }
  return best;
}
