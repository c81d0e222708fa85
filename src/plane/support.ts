import { closeSync, mkdtempSync, openSync, readSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BLOCK, layerFileName, writeLayerFiles } from '../erofs/index.js';
import { openErofs, readsDirectly } from '../linux/index.js';

/** Whether this kernel can serve images by its own EROFS, for this user, with this cache directory; `reason` says why not. */
export interface KernelSupport {
  readonly supported: boolean;
  readonly reason: string;
}

/** A file of four pages whose device ends in the middle of the third. */
const PROBE_BYTES = 16_384;
const PROBE_DEVICE_BYTES = 10_240;
const PAGE = 4096;
const FILL = 0xa5;

/**
 * Asks the kernel, and does not go by its version: mounts a small image whose device ends too early, nowhere in the tree, and reads
 * it. Linux 6.12, which can do it first, gave zeros for what a device does not have; later ones give EIO. Zeros in place of bytes that
 * are missing would be wrong bytes, so such a kernel is not used.
 * @param directory on the file system of the cache directory; the probe's files live in it for some milliseconds
 */
export function probeKernelPlane(directory: string): KernelSupport {
  if (process.geteuid?.() !== 0) return { supported: false, reason: 'only root can mount EROFS' };
  let place: string;
  try {
    place = mkdtempSync(join(directory, '.kernel-probe-'));
  } catch (error) {
    return { supported: false, reason: `${directory} cannot be written: ${codeOf(error)}` };
  }
  try {
    const primary = join(place, 'tree');
    const device = join(place, 'layer');
    writeFileSync(primary, writeLayerFiles([PROBE_BYTES]));
    writeFileSync(device, Buffer.alloc(PROBE_BYTES, FILL));
    truncateSync(device, PROBE_DEVICE_BYTES);
    // Layers are read in either way.
    const buffered = readProbe(openErofs(primary, [device]));
    return buffered.supported
      ? readProbe(openErofs(primary, [device], { directio: canReadDirectly(device) }))
      : buffered;
  } catch (error) {
    return { supported: false, reason: reasonOf(error, directory) };
  } finally {
    rmSync(place, { recursive: true, force: true });
  }
}

/** Takes the mount over. */
function readProbe(mount: number): KernelSupport {
  try {
    const fd = openSync(`/proc/self/fd/${mount}/${layerFileName(0)}`, 'r');
    try {
      const bytes = Buffer.alloc(PROBE_BYTES);
      // Pages before the device's end first, then the one that it ends in, and one beyond it.
      const whole = readSync(fd, bytes, 0, PAGE, 0);
      if (whole !== PAGE || bytes.subarray(0, PAGE).some((byte) => byte !== FILL)) {
        return { supported: false, reason: 'this kernel reads wrong bytes from EROFS on files' };
      }
      for (const offset of [2 * PAGE, 3 * PAGE]) {
        if (mayRead(fd, bytes, offset)) {
          const reason = "this kernel gives zeros where a layer's bytes are missing (later ones give errors)";
          return { supported: false, reason };
        }
      }
    } finally {
      closeSync(fd);
    }
  } finally {
    closeSync(mount);
  }
  return { supported: true, reason: '' };
}

function canReadDirectly(path: string): boolean {
  const fd = openSync(path, 'r');
  try {
    return readsDirectly(fd, BLOCK);
  } finally {
    closeSync(fd);
  }
}

function mayRead(fd: number, bytes: Buffer, offset: number): boolean {
  try {
    readSync(fd, bytes, 0, PAGE, offset);
    return true;
  } catch (error) {
    if (codeOf(error) === 'EIO') return false;
    throw error;
  }
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? String(error);
}

function reasonOf(error: unknown, directory: string): string {
  switch (codeOf(error)) {
    case 'ENODEV':
      return 'this kernel has no EROFS (CONFIG_EROFS_FS)';
    case 'ENOTBLK':
      return `this kernel does not mount EROFS from a file in ${directory}: that needs Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE, and a disk file system (no tmpfs, no overlayfs)`;
    case 'EPERM':
    case 'EACCES':
      return 'no permission to mount (CAP_SYS_ADMIN)';
    default:
      return `this kernel does not mount EROFS from files: ${codeOf(error)}`;
  }
}
