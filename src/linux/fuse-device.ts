import { constants, openSync } from 'node:fs';
import * as flags from './flags.js';
import { mountFileSystem } from './mount.js';

/** A new FUSE connection's descriptor: non-blocking, closed on exec. Throws Node's error (ENOENT, EACCES …) of open(2). */
export function openFuseDevice(): number {
  return openSync('/dev/fuse', constants.O_RDWR | flags.O_NONBLOCK | flags.O_CLOEXEC);
}

export interface FuseMountOptions {
  fd: number;
  target: string;
  /** Shown as the source in /proc/mounts; also the subtype: "fuse.clip". */
  source: string;
  subtype?: string;
  suid?: boolean;
  dev?: boolean;
  /** 512-byte multiples make no difference to st_blksize, which each reply gives. */
  maxRead?: number;
}

/** Mounts a FUSE connection with mount(2), for root: read-only, open to all users, access checked by the kernel. */
export function mountFuse(options: FuseMountOptions): void {
  const data = [
    `fd=${options.fd}`,
    'rootmode=40000',
    `user_id=${process.getuid?.() ?? 0}`,
    `group_id=${process.getgid?.() ?? 0}`,
    'allow_other',
    'default_permissions',
    ...(options.maxRead === undefined ? [] : [`max_read=${options.maxRead}`]),
  ].join(',');
  mountFileSystem({
    type: options.subtype === undefined ? 'fuse' : `fuse.${options.subtype}`,
    source: options.source,
    target: options.target,
    flags: flags.MS_RDONLY | (options.suid ? 0 : flags.MS_NOSUID) | (options.dev ? 0 : flags.MS_NODEV),
    data,
  });
}
