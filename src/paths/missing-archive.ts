import { readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { ClipError } from '../bytes/index.js';

export const ARCHIVE_ENDING = /\.r?clip$/;
/** Of files that hold images or directories, and of no official image of Docker Hub. */
const OTHER_ENDING = /\.(?:tar|tgz|gz|xz|bz2|zst|zip|iso|img)$/;

/** How many letters must be added, removed, replaced or exchanged with their neighbour to make `b` of `a` (the restricted Damerau distance). */
export function typingDistance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = last[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      const exchanged = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      row.push(Math.min(last[j]! + 1, row[j - 1]! + 1, replaced, exchanged ? before[j - 2]! + 1 : replaced));
    }
    [before, last] = [last, row];
  }
  return last[b.length]!;
}

/** Whether a name ends as a file does, or nearly as an archive does: `py.clp`, `py.tar`. */
export function endsAsFile(name: string): boolean {
  const ending = /\.(\w+)$/.exec(name)?.[1];
  if (ending === undefined) return false;
  return OTHER_ENDING.test(name) || ['clip', 'rclip'].some((right) => typingDistance(ending, right) <= 1);
}

/**
 * The archive beside `path` whose name is most like it: not more than two mistakes, and less than half of the name.
 * @param itself also `path`, if it is there
 */
export function similarArchive(path: string, itself = false): string | null {
  const [name, directory] = [basename(path), dirname(path)];
  let names: string[];
  try {
    names = readdirSync(directory);
  } catch {
    return null;
  }
  const most = Math.min(2, Math.floor((name.replace(/\.\w+$/, '').length + 1) / 2));
  const near = names
    .filter((one) => ARCHIVE_ENDING.test(one) && (itself || one !== name))
    .map((one) => ({ one, distance: typingDistance(name, one) }))
    .filter(({ distance }) => distance <= most)
    .sort((a, b) => a.distance - b.distance || (a.one < b.one ? -1 : 1));
  if (near.length === 0) return null;
  return path.includes('/') ? join(directory, near[0]!.one) : near[0]!.one;
}

/** What is said of an archive that is not there: the name that was meant, or how to make it. */
export function missingArchive(path: string, cause: unknown): ClipError {
  return new ClipError('NOT_FOUND', `archive ${path} does not exist`, { cause, hint: nextStep(path) });
}

function nextStep(path: string): string {
  const similar = similarArchive(path);
  if (similar !== null) return `did you mean ${similar}?`;
  if (OTHER_ENDING.test(path)) return `an image in a tar is named docker-archive:${path} or oci-archive:${path}`;
  // A name such as HOST/NAME:TAG is that of an image.
  if (!/^[./~]/.test(path) && !endsAsFile(path)) return `an image is named without --clip, or by --image ${path}`;
  if (ARCHIVE_ENDING.test(path)) return `check the path, or make it: clipctl index IMAGE --out ${path}`;
  return `check the path: archives end in .clip, and an image is named by --image ${path}`;
}
