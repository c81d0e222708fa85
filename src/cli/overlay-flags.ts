import { type Command, Option } from 'commander';
import type { OverlayOptions } from '../container/index.js';
import type { PlaneWish } from '../wire/index.js';
import { grouped } from './common-flags.js';
import { byteSize } from './numbers.js';

/** Which file system answers for the image; or "mount" (whichever is the default), or "unpack" (a directory with all of it). */
export type PlaneFlag = PlaneWish | 'mount' | 'unpack';

/** The flags that say how a container's writable layer is made. */
export interface OverlayFlags {
  readonly overlay?: 'kernel' | 'fuse' | 'auto';
  readonly kernelOverlay?: boolean;
  readonly tmpfsUpper?: number;
  readonly upper?: string;
  readonly mountBase?: string;
  readonly rootfsBase?: string;
  readonly plane?: PlaneFlag;
}

/** @param when said in the help: the command has other uses as well */
export function addOverlayFlags(command: Command, when = ''): Command {
  return grouped(addPlaneFlag(command), `The container's writable layer${when}:`, (group) =>
    group
      .addOption(
        new Option('--overlay <how>', 'overlayfs, fuse-overlayfs, or one of them that works (default: auto)').choices([
          'auto',
          'kernel',
          'fuse',
        ]),
      )
      .option('--kernel-overlay', 'the same as --overlay kernel')
      .option('--tmpfs-upper <size>', 'it is in memory, with at most SIZE', byteSize)
      .option('--upper <dir>', 'it is DIR/upper, and is kept')
      .option('--mount-base <dir>', 'the image is mounted at DIR/ID (default: ROOT/ID/image)')
      .option('--rootfs-base <dir>', 'the merged tree is at DIR/ID (default: ROOT/ID/rootfs)'),
  );
}

function addPlaneFlag(command: Command): Command {
  return command.addOption(
    new Option(
      '--plane <how>',
      "the kernel's own EROFS answers for the image, FUSE does, or the kernel where it can (default: fuse); for a container also: unpack all of the image first, or mount it as without this flag",
    ).choices([...PLANES, 'unpack', 'mount']),
  );
}

export const PLANES = ['kernel', 'fuse', 'auto'] as const;

/** The image option; absent when the image is not to be mounted, or by whichever plane is the default. */
export function planeOption({ plane }: Pick<OverlayFlags, 'plane'>): { plane?: PlaneWish } {
  return plane === undefined || plane === 'mount' || plane === 'unpack' ? {} : { plane };
}

export function overlayOptions(flags: OverlayFlags): OverlayOptions {
  const overlay = flags.kernelOverlay === true ? 'kernel' : flags.overlay;
  return {
    ...(overlay === undefined ? {} : { overlay }),
    ...(flags.tmpfsUpper === undefined ? {} : { tmpfsUpper: flags.tmpfsUpper }),
    ...(flags.upper === undefined ? {} : { upper: flags.upper }),
    ...(flags.mountBase === undefined ? {} : { mountBase: flags.mountBase }),
    ...(flags.plane === 'unpack' ? { plane: 'unpack' } : {}),
    ...(flags.rootfsBase === undefined ? {} : { rootfsBase: flags.rootfsBase }),
  };
}
