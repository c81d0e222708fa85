import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import { flags, mountFileSystem } from '../linux/index.js';
import { findProgram } from './programs.js';

/** Which program or module lays the writable directory over the image. */
export type OverlayKind = 'kernel' | 'fuse';

export interface OverlayLayers {
  readonly lower: string;
  readonly upper: string;
  /** An empty directory on the file system of `upper`. */
  readonly work: string;
  readonly target: string;
  /** Ignore set-uid bits. Device nodes are ignored always: a container has its own /dev. */
  readonly nosuid?: boolean;
  /** Nothing of `upper` is to outlive the mount: neither a program's fsync nor the unmount writes it to the disk. */
  readonly volatile?: boolean;
}

/**
 * A path as an option of overlayfs: a backslash before what ends an option (a comma), separates layers (a colon) or is a
 * backslash itself (Documentation/filesystems/overlayfs.rst, "Multiple lower layers").
 */
function escapeOverlayPath(path: string): string {
  return path.replaceAll(/[\\,:]/g, '\\$&');
}

/** True when this process's root is not the machine's: then only user.* attributes may mark what the overlay deletes. */
function inUserNamespace(): boolean {
  try {
    return !/^\s*0\s+0\s+4294967295\s*$/.test(readFileSync('/proc/self/uid_map', 'latin1'));
  } catch {
    return false; // a kernel without user namespaces
  }
}

const UPPER_HINT =
  'the writable directory must be on a file system such as ext4, xfs or tmpfs, not on an overlay: --tmpfs-upper SIZE, or --upper DIR';

/** Mounts an overlay with the kernel's overlayfs. @throws ClipError naming what is missing */
export function mountKernelOverlay(layers: OverlayLayers): void {
  const { lower, upper, work, target, nosuid } = layers;
  const options = [
    `lowerdir=${escapeOverlayPath(lower)}`,
    `upperdir=${escapeOverlayPath(upper)}`,
    `workdir=${escapeOverlayPath(work)}`,
    // Without it the two names that link(2) makes have different inode numbers (docs/internals/fuse.md, "Export support").
    'xino=on',
    ...(inUserNamespace() ? ['userxattr'] : []),
  ];
  const how = flags.MS_NODEV | (nosuid ? flags.MS_NOSUID : 0);
  const mount = (data: readonly string[]): void =>
    mountFileSystem({ type: 'overlay', source: 'overlay', target, flags: how, data: data.join(',') });
  try {
    mountVolatile(mount, options, layers.volatile === true);
  } catch (cause) {
    throw overlayError(layers, cause);
  }
}

/** The unmount would otherwise wait until the whole file system below is written, other programs' data included: 50 ms and more. */
function mountVolatile(mount: (options: readonly string[]) => void, options: readonly string[], wanted: boolean): void {
  try {
    mount(wanted ? [...options, 'volatile'] : options);
  } catch (error) {
    // Linux before 5.10 does not know it, and says no more than that.
    if (!wanted || (error as NodeJS.ErrnoException).code !== 'EINVAL') throw error;
    mount(options);
  }
}

function overlayError({ upper, target }: OverlayLayers, cause: unknown): ClipError {
  const code = (cause as NodeJS.ErrnoException).code ?? String(cause);
  const failed = `cannot mount an overlay on ${target}: ${code}`;
  switch (code) {
    case 'ENODEV':
      return new ClipError('UNSUPPORTED', 'this kernel has no overlayfs', {
        cause,
        hint: 'load the module (modprobe overlay), or --overlay fuse with the package fuse-overlayfs',
      });
    case 'EPERM':
    case 'EACCES':
      return new ClipError('PERMISSION', `no permission to mount an overlay on ${target}`, {
        cause,
        hint: 'mounting needs CAP_SYS_ADMIN; without it: --overlay fuse with the package fuse-overlayfs',
      });
    case 'EINVAL':
    case 'EREMOTE':
      return new ClipError('UNSUPPORTED', `${failed}: ${upper} cannot be the writable layer`, {
        cause,
        hint: UPPER_HINT,
      });
    case 'EBUSY':
      return new ClipError('BUSY', `${failed}: ${upper} is in use by another overlay`, {
        cause,
        hint: 'give another --upper',
      });
    default:
      return new ClipError('SYSTEM', failed, { cause, hint: 'dmesg may say more' });
  }
}

/**
 * Mounts an overlay with fuse-overlayfs, as this user. Its process ends when the mount does.
 * @param owner the ids that all files are shown with; null: the image's own
 * @throws ClipError UNSUPPORTED when the program is missing
 */
export function mountFuseOverlay(layers: OverlayLayers, owner: { uid: number; gid: number } | null): void {
  const program = findProgram('fuse-overlayfs');
  if (program === null) {
    throw new ClipError('UNSUPPORTED', 'this machine has no fuse-overlayfs', {
      hint: 'install the package fuse-overlayfs; as root, --overlay kernel needs none',
    });
  }
  const { lower, upper, work, target, nosuid } = layers;
  if (lower.includes(':')) {
    // It separates layers, and nothing escapes it (seen in fuse-overlayfs 1.10).
    throw new ClipError('UNSUPPORTED', `fuse-overlayfs takes the colon in ${lower} for the end of a path`, {
      hint: 'give a --root or --mount-base without one',
    });
  }
  const options = [
    `lowerdir=${escapeOption(lower)}`,
    `upperdir=${escapeOption(upper)}`,
    `workdir=${escapeOption(work)}`,
    ...(nosuid ? ['nosuid'] : []),
    ...(owner === null ? [] : [`squash_to_uid=${owner.uid}`, `squash_to_gid=${owner.gid}`]),
  ];
  const ran = spawnSync(program, ['-o', options.join(','), target], { stdio: ['ignore', 'ignore', 'pipe'] });
  if (ran.status === 0) return;
  const said = ran.stderr?.toString().trim().replaceAll('\n', '; ') ?? '';
  throw new ClipError(
    'SYSTEM',
    `fuse-overlayfs cannot mount ${target}: ${said || `exit ${ran.status ?? ran.signal}`}`,
    {
      hint: UPPER_HINT,
    },
  );
}

/** libfuse's option parser takes a backslash before a comma or backslash. */
function escapeOption(text: string): string {
  return text.replaceAll(/[\\,]/g, '\\$&');
}

/** A tmpfs for an overlay's writable layer. */
export function mountTmpfs(target: string, bytes: number): void {
  const options = {
    type: 'tmpfs',
    source: 'clip-upper',
    target,
    flags: flags.MS_NODEV,
    data: `size=${bytes},mode=0700`,
  };
  try {
    mountFileSystem(options);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new ClipError(code === 'EPERM' ? 'PERMISSION' : 'SYSTEM', `cannot mount a tmpfs on ${target}: ${code}`, {
      cause,
      hint: 'only root can: without root, give --upper DIR',
    });
  }
}

/** Makes a mounted tree read-only, as it stands. */
export function remountReadOnly(target: string, nosuid: boolean): void {
  const how = flags.MS_BIND | flags.MS_REMOUNT | flags.MS_RDONLY | flags.MS_NODEV | (nosuid ? flags.MS_NOSUID : 0);
  mountFileSystem({ type: 'none', source: 'none', target, flags: how });
}

/** Unmounts what this user, who is not root, mounted with fuse-overlayfs. */
export function unmountUser(target: string, lazy: boolean): void {
  const args = ['-u', ...(lazy ? ['-z'] : []), '--', target];
  const ran = spawnSync('fusermount3', args, { stdio: ['ignore', 'ignore', 'pipe'], encoding: 'utf8' });
  if (ran.status === 0) return;
  const said = ran.stderr?.trim() || String(ran.error ?? ran.status);
  throw new ClipError(/busy/i.test(said) ? 'BUSY' : 'SYSTEM', `cannot unmount ${target}: ${said}`);
}
