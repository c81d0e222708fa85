import { createHash } from 'node:crypto';
import { closeSync, lstatSync, openSync, readdirSync, readlinkSync, readSync } from 'node:fs';
import { getXattr, listXattr } from '../../src/linux/index.js';

/** The properties of a file that a program can see. Texts are latin1: names and targets are bytes. */
export interface FileSnapshot {
  readonly type: string;
  readonly mode: string;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly nlink: number;
  /** Nanoseconds. */
  readonly mtime: string;
  readonly rdev: number;
  readonly xattrs: Readonly<Record<string, string>>;
  readonly link?: string;
  readonly sha256?: string;
  /** The first path with the same inode, where nlink > 1: says which names are one file. */
  readonly same?: string;
}

export interface SnapshotOptions {
  /** Contents of files beyond this are not read (sparse monsters). Default 64 MiB. */
  readonly hashLimit?: number;
}

const TYPES: readonly (readonly [number, string])[] = [
  [0o100000, 'file'],
  [0o040000, 'dir'],
  [0o120000, 'symlink'],
  [0o020000, 'char'],
  [0o060000, 'block'],
  [0o010000, 'fifo'],
  [0o140000, 'socket'],
];

function hashFile(path: Buffer): string {
  const hash = createHash('sha256');
  const fd = openSync(path, 'r');
  const buffer = Buffer.allocUnsafe(1 << 18);
  try {
    for (let n = readSync(fd, buffer); n > 0; n = readSync(fd, buffer)) hash.update(buffer.subarray(0, n));
  } finally {
    closeSync(fd);
  }
  return hash.digest('hex');
}

function xattrsOf(path: Buffer): Record<string, string> {
  const out: Record<string, string> = {};
  for (const name of listXattr(path))
    out[name.toString('latin1')] = (getXattr(path, name) ?? Buffer.alloc(0)).toString('hex');
  return Object.fromEntries(Object.entries(out).sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Everything below `root`, and the root itself as ".", by path (latin1). Files are not entered through symlinks or mounts. */
export function snapshotTree(root: string, options: SnapshotOptions = {}): Map<string, FileSnapshot> {
  const out = new Map<string, FileSnapshot>();
  const firstName = new Map<bigint, string>();
  const visit = (name: string): void => {
    const path =
      name === '.' ? Buffer.from(root) : Buffer.concat([Buffer.from(`${root}/`), Buffer.from(name, 'latin1')]);
    const stat = lstatSync(path, { bigint: true });
    const mode = Number(stat.mode);
    const type = TYPES.find(([bits]) => bits === (mode & 0o170000))?.[1] ?? 'unknown';
    const isDirectory = type === 'dir';
    const same = !isDirectory && stat.nlink > 1n ? (firstName.get(stat.ino) ?? name) : undefined;
    if (same === name) firstName.set(stat.ino, name);
    out.set(name, {
      type,
      mode: (mode & 0o7777).toString(8).padStart(4, '0'),
      uid: Number(stat.uid),
      gid: Number(stat.gid),
      // A directory's size is the file system's own affair.
      size: isDirectory ? 0 : Number(stat.size),
      nlink: Number(stat.nlink),
      mtime: String(stat.mtimeNs),
      rdev: type === 'char' || type === 'block' ? Number(stat.rdev) : 0,
      xattrs: xattrsOf(path),
      ...(type === 'symlink' && { link: readlinkSync(path, 'buffer').toString('latin1') }),
      ...(type === 'file' && stat.size <= (options.hashLimit ?? 64 << 20) && { sha256: hashFile(path) }),
      ...(same !== undefined && { same }),
    });
    if (!isDirectory) return;
    const children = readdirSync(path, 'buffer').map((child) => child.toString('latin1'));
    for (const child of children.sort()) visit(name === '.' ? child : `${name}/${child}`);
  };
  visit('.');
  return out;
}

/** Every difference as one line, "path: field found ≠ expected"; empty when the trees are equal. */
export function compareTrees(
  found: ReadonlyMap<string, FileSnapshot>,
  expected: ReadonlyMap<string, FileSnapshot>,
): string[] {
  const lines: string[] = [];
  for (const [path, want] of expected) {
    const have = found.get(path);
    if (have === undefined) {
      lines.push(`${path}: missing, expected a ${want.type}`);
      continue;
    }
    const fields = new Set([...Object.keys(have), ...Object.keys(want)]) as Set<keyof FileSnapshot>;
    for (const field of fields) {
      const a = JSON.stringify(have[field]);
      const b = JSON.stringify(want[field]);
      if (a !== b) lines.push(`${path}: ${field} ${a} ≠ ${b}`);
    }
  }
  for (const [path, have] of found) if (!expected.has(path)) lines.push(`${path}: a ${have.type} that is not expected`);
  return lines;
}
