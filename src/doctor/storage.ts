import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  realpathSync,
  rmSync,
  statfsSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { defaultMaxBytes } from '../cache/index.js';
import { punchHole, readMountInfo } from '../linux/index.js';
import { mountOf } from '../wire/index.js';
import { type Finding, failed, limited, ok } from './finding.js';

/** File systems that keep nothing over a reboot, or that several machines write to. */
const IN_MEMORY = new Set(['tmpfs', 'ramfs']);
const SHARED = /^(nfs4?|cifs|smb3?|9p|ceph|lustre|fuse\..*)$/;
/** A cache smaller than a common image keeps fetching the same spans. */
const LITTLE_ROOM = 2e9;

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;

/** The directory, or the nearest above it that exists. */
function existing(path: string): string {
  let at = path;
  while (!existsSync(at) && at !== '/') at = dirname(at);
  return realpathSync(at);
}

function notUsable(path: string, at: string): string | null {
  try {
    if (!statSync(at).isDirectory()) return `${at} is not a directory`;
    accessSync(at, constants.R_OK | constants.W_OK | constants.X_OK);
    return null;
  } catch (error) {
    return `${path}: ${(error as NodeJS.ErrnoException).code}`;
  }
}

/** The directory of clipd's socket and state. */
export function examineRoot(root: string): Finding {
  const trouble = notUsable(root, existing(root));
  return trouble === null
    ? ok('root', root)
    : failed('root', trouble, 'give a directory that this user may write to: --root DIR, or CLIP_ROOT');
}

/** The disk of the span cache: its room, its file system, and whether parts of files can be given back. */
export function examineCacheDirectory(directory: string): Finding[] {
  const at = existing(directory);
  const trouble = notUsable(directory, at);
  if (trouble !== null) {
    return [
      failed('cache', trouble, 'give a directory that this user may write to: --cache-dir DIR, or CLIP_CACHE_DIR'),
    ];
  }
  const type = mountOf(readMountInfo(), at)?.type ?? 'unknown';
  return [fileSystem(directory, type), room(at), holes(at, type)];
}

function fileSystem(directory: string, type: string): Finding {
  const found = `${directory} on ${type}`;
  if (IN_MEMORY.has(type)) return limited('cache', found, 'it is in memory, and empty after a reboot: --cache-dir DIR');
  if (SHARED.test(type)) {
    return limited(
      'cache',
      found,
      'a cache belongs on a disk of this machine; share one with --content-cache dir:/PATH',
    );
  }
  return ok('cache', found);
}

function room(at: string): Finding {
  const { bavail, bsize, blocks, ffree, files } = statfsSync(at);
  const free = bavail * bsize;
  const found = `${gigabytes(free)} of ${gigabytes(blocks * bsize)} free; the cache takes up to ${gigabytes(defaultMaxBytes(at))}`;
  if (files > 0 && ffree === 0) return failed('disk-room', 'no inodes are free', 'remove files, or --cache-dir DIR');
  return free >= LITTLE_ROOM
    ? ok('disk-room', found)
    : limited(
        'disk-room',
        found,
        'spans that find no room are fetched again: make room, or --cache-dir DIR on another disk',
      );
}

/** Evictions free parts of files. On trial, because it depends on the file system and on what lies below it. */
function holes(at: string, type: string): Finding {
  const name = 'cache-holes';
  let directory: string | null = null;
  try {
    directory = mkdtempSync(join(at, '.clip-doctor-'));
    const fd = openSync(join(directory, 'file'), 'w+');
    try {
      writeSync(fd, Buffer.alloc(8192, 1));
      punchHole(fd, 0, 4096);
    } finally {
      closeSync(fd);
    }
    return ok(name, `${type} frees parts of files`);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    if (code === 'ENOSPC' || code === 'EDQUOT') {
      return limited(name, 'the disk is full', 'spans that find no room are fetched again: make room');
    }
    return limited(
      name,
      `${type}: ${code}`,
      'the cache is emptied by the file, not by the span: ext4, xfs, btrfs, tmpfs can do better',
    );
  } finally {
    if (directory !== null) rmSync(directory, { recursive: true, force: true });
  }
}
