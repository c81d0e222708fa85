import { type Stats, statSync } from 'node:fs';
import { posix } from 'node:path';
import { ClipError } from '../bytes/index.js';
import type { InRoot } from './in-root.js';
import type { ProcessOptions, Volume } from './spec.js';
import { splitTmpfs } from './tmpfs.js';

/** Docker's least: a runtime needs some 2 MB itself before the program begins. */
const LEAST_MEMORY = 6 * 1024 * 1024;
/** A name of RFC 1123's parts; the kernel takes 64 characters (HOST_NAME_MAX). */
const HOSTNAME = /^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9_])?$/;

/** tmpfs(5), and mount(8) for those without a value. */
const TMPFS_OPTION =
  /^(size=\d+[kmg%]?|nr_(blocks|inodes)=\d+[kmg]?|mode=0?[0-7]{1,4}|[ug]id=\d+|huge=\w+|mpol=\S+|r[ow]|(no)?(exec|suid|dev|atime|diratime|relatime|strictatime|sync|dirsync)|async|defaults)$/i;

function usage(message: string, hint: string): ClipError {
  return new ClipError('USAGE', message, { hint });
}

function checkDestination(path: string, what: string): void {
  if (!path.startsWith('/')) {
    throw usage(
      `${JSON.stringify(path)} is not an absolute path of the container`,
      `${what} take one that begins with /`,
    );
  }
  if (posix.normalize(path) === '/') {
    throw usage("the container's root is the image, and nothing else can be mounted there", `give a directory below /`);
  }
}

/**
 * Refuses, before anything is mounted, what no runtime could start.
 * @throws ClipError USAGE
 */
export function checkProcessOptions(options: ProcessOptions): void {
  const { memory, hostname, env = [], tmpfs = [], volumes = [] } = options;
  if (memory !== undefined && memory !== 0 && memory < LEAST_MEMORY) {
    throw usage(`a memory limit of ${memory} bytes is too low to start in`, 'give 6M or more');
  }
  if (hostname !== undefined && !HOSTNAME.test(hostname)) {
    throw usage(
      `${JSON.stringify(hostname)} is no host name`,
      'one has up to 63 letters, digits, "-" and ".", and begins and ends with a letter or digit',
    );
  }
  for (const pair of env) {
    if (pair.startsWith('=') || pair === '' || pair.includes('\0')) {
      throw usage(`${JSON.stringify(pair)} is no environment variable`, 'write NAME=VALUE, or NAME');
    }
  }
  const places = new Set<string>();
  const claim = (path: string, what: string): void => {
    checkDestination(path, what);
    const place = posix.normalize(path).replace(/\/$/, '');
    if (places.has(place)) throw usage(`two things are to be mounted at ${place}`, 'give one of them');
    places.add(place);
  };
  for (const text of tmpfs) {
    const [path, given] = splitTmpfs(text);
    claim(path, '--tmpfs');
    const unknown = given.find((option) => !TMPFS_OPTION.test(option));
    if (unknown !== undefined) {
      throw usage(
        `${JSON.stringify(unknown)} is no option of a tmpfs (for ${path})`,
        'size=64m, mode=1777, uid=, gid=, nr_inodes=, ro, exec and the like, with commas between them',
      );
    }
  }
  for (const { destination } of volumes) claim(destination, '--volume');
}

/** @throws ClipError NOT_FOUND when a volume's source is missing */
export function statSource({ source }: Volume): Stats {
  try {
    return statSync(source);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new ClipError('NOT_FOUND', `the volume's source ${source} does not exist or cannot be read: ${code}`, {
      cause,
      hint: `mkdir -p ${source}`,
    });
  }
}

/** @throws ClipError NOT_FOUND when its source is missing; USAGE when one of the two is a directory and the other is not */
export function checkVolume(volume: Volume, root: InRoot): void {
  const { source, destination } = volume;
  const stat = statSource(volume);
  const covered = root.stat(destination);
  if (covered === null || covered.isDirectory() === stat.isDirectory()) return;
  const kind = (one: Stats): string => (one.isDirectory() ? 'a directory' : 'no directory');
  throw usage(
    `${source} is ${kind(stat)}, and ${destination} of the image is ${kind(covered)}`,
    'a directory can only be mounted on a directory, a file on a file',
  );
}
