import { lstatSync, readdirSync, readlinkSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import { encodeDevice } from '../erofs/index.js';
import { BLOCK_SUM_SIZE, BLOCK_TYPE_SIZE, HEADER_SIZE, type LegacyNode, NodeType } from '../legacy/index.js';
import { listXattr } from '../linux/index.js';

/** A file whose content is to be packed, and where. */
export interface PackedFile {
  readonly path: Buffer;
  readonly size: number;
  /** Of the file that was looked at: another one in its place is not packed. */
  readonly dev: bigint;
  readonly ino: bigint;
  /** Where its block begins in the archive. */
  readonly position: number;
  /** The nodes that show it: several where it has several names. Their hash is filled in when it is known. */
  readonly nodes: { contentHash: Uint8Array; nlink: number }[];
}

export interface ScannedTree {
  /** In the order of their paths. */
  readonly nodes: readonly LegacyNode[];
  readonly files: readonly PackedFile[];
  /** Where the data ends. */
  readonly end: number;
  /** Bytes of content. */
  readonly contentBytes: number;
}

const TYPE_MASK = 0o170000n;
const EMPTY = new Uint8Array(0);
const SLASH = Buffer.from('/');

interface Seen {
  readonly path: Buffer;
  readonly stat: import('node:fs').BigIntStats;
}

/**
 * Walks a directory and decides where each file's block will lie. Nothing of it is dropped in silence: what version 1 cannot hold
 * (extended attributes) is refused with its path, or, with `onSkipped`, left out and told.
 * @throws ClipError UNSUPPORTED naming the path; NOT_FOUND, PERMISSION, SYSTEM
 */
export function scanTree(root: string, onSkipped: ((what: string) => void) | null): ScannedTree {
  const nodes: LegacyNode[] = [];
  const files: PackedFile[] = [];
  const byInode = new Map<string, { node: LegacyNode; file: PackedFile | null }>();
  let position = HEADER_SIZE;
  let contentBytes = 0;
  for (const { path, stat } of walk(Buffer.from(root))) {
    refuseXattrs(path, onSkipped);
    const inside = path.length === Buffer.byteLength(root) ? SLASH : path.subarray(Buffer.byteLength(root));
    const key = `${stat.dev}:${stat.ino}`;
    const known = stat.isDirectory() ? undefined : byInode.get(key);
    if (known !== undefined) {
      const node = { ...known.node, path: inside };
      nodes.push(node);
      known.file?.nodes.push(node);
      continue;
    }
    const regular = stat.isFile();
    const size = regular ? Number(stat.size) : 0;
    const target = stat.isSymbolicLink() ? readlinkSync(path, 'buffer') : EMPTY;
    const node: LegacyNode = {
      nodeType: stat.isDirectory() ? NodeType.directory : stat.isSymbolicLink() ? NodeType.symlink : NodeType.file,
      path: inside,
      // Numbers of our own: those of the file system are not unique where several are mounted in the tree.
      ino: nodes.length + 1,
      // Of directories it means nothing, but the Go program shows it.
      size: stat.isSymbolicLink() ? target.length : stat.isDirectory() ? Number(stat.size) : size,
      mtime: Number(floorDivide(stat.mtimeNs)),
      mtimeNsec: Number(stat.mtimeNs - floorDivide(stat.mtimeNs) * 1_000_000_000n),
      mode: Number(stat.mode),
      nlink: stat.isDirectory() ? Number(stat.nlink) : 1,
      uid: Number(stat.uid),
      gid: Number(stat.gid),
      rdev: stat.isCharacterDevice() || stat.isBlockDevice() ? deviceOf(stat.rdev) : 0,
      target,
      contentHash: EMPTY,
      dataPos: regular ? position + BLOCK_TYPE_SIZE : 0,
      dataLen: size,
      remote: null,
    };
    nodes.push(node);
    let file: PackedFile | null = null;
    if (regular) {
      file = { path, size, dev: stat.dev, ino: stat.ino, position, nodes: [node] };
      files.push(file);
      position += BLOCK_TYPE_SIZE + size + BLOCK_SUM_SIZE;
      contentBytes += size;
    }
    if (!stat.isDirectory() && stat.nlink > 1n) byInode.set(key, { node, file });
  }
  for (const file of files) for (const node of file.nodes) node.nlink = file.nodes.length;
  nodes.sort((a, b) => Buffer.compare(a.path, b.path));
  return { nodes, files, end: position, contentBytes };
}

/** Depth first, each directory before what is in it. */
function* walk(root: Buffer): Iterable<Seen> {
  const pending: Buffer[] = [root];
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    const stat = system(path, () => lstatSync(path!, { bigint: true }));
    yield { path, stat };
    if ((stat.mode & TYPE_MASK) !== 0o040000n) continue;
    const names = system(path, () => readdirSync(path!, { encoding: 'buffer' }));
    names.sort((a, b) => Buffer.compare(b, a));
    for (const name of names) pending.push(Buffer.concat([path, SLASH, name]));
  }
}

export function system<T>(path: Buffer, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    const { code = String(cause) } = cause as NodeJS.ErrnoException;
    const kind = code === 'ENOENT' ? 'NOT_FOUND' : code === 'EACCES' || code === 'EPERM' ? 'PERMISSION' : 'SYSTEM';
    throw new ClipError(kind, `${path.toString()}: ${code}`, {
      cause,
      ...(code === 'ENOENT' ? { hint: 'the tree changed while it was packed: pack it when it is at rest' } : {}),
    });
  }
}

function refuseXattrs(path: Buffer, onSkipped: ((what: string) => void) | null): void {
  let names: Buffer[];
  try {
    names = listXattr(path);
  } catch {
    return; // the file system has none
  }
  if (names.length === 0) return;
  const list = names.map((name) => name.toString()).join(', ');
  if (onSkipped === null) {
    throw new ClipError(
      'UNSUPPORTED',
      `${path.toString()} has extended attributes (${list}), which version 1 cannot hold`,
      {
        hint: '--skip-unsupported packs the tree without them',
      },
    );
  }
  onSkipped(`${path.toString()}: left out extended attributes: ${list}`);
}

/** Rounds down, also before 1970. */
function floorDivide(nanoseconds: bigint): bigint {
  const seconds = nanoseconds / 1_000_000_000n;
  return nanoseconds < 0n && seconds * 1_000_000_000n !== nanoseconds ? seconds - 1n : seconds;
}

/** glibc's st_rdev (12 bits of major and 8 of minor below, the rest above) as the kernel's 32 bits. */
function deviceOf(rdev: bigint): number {
  const major = Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & ~0xfffn));
  const minor = Number((rdev & 0xffn) | ((rdev >> 12n) & ~0xffn));
  return encodeDevice(major, minor);
}
