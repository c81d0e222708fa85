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
 */
export class TreeScan {
  readonly #root: Buffer;
  readonly #onSkipped: ((what: string) => void) | null;
  readonly #nodes: LegacyNode[] = [];
  #files = 0;
  #end = HEADER_SIZE;
  #contentBytes = 0;
  #complete = false;

  constructor(root: string, onSkipped: ((what: string) => void) | null) {
    this.#root = Buffer.from(root);
    this.#onSkipped = onSkipped;
  }

  /** What was found so far: files with content of their own, the place where the data ends, and the bytes of content. */
  get files(): number {
    return this.#files;
  }

  get end(): number {
    return this.#end;
  }

  get contentBytes(): number {
    return this.#contentBytes;
  }

  /** The walk is over. */
  get complete(): boolean {
    return this.#complete;
  }

  /** All nodes of a complete scan, in the order of their paths. */
  sorted(): readonly LegacyNode[] {
    return this.#nodes.sort((a, b) => Buffer.compare(a.path, b.path));
  }

  /**
   * The files to be packed, as the walk comes to them: they are packed while it goes on. Once.
   * @throws ClipError UNSUPPORTED naming the path; NOT_FOUND, PERMISSION, SYSTEM
   */
  *walk(): Iterable<PackedFile> {
    const nodes = this.#nodes;
    const byInode = new Map<string, { node: LegacyNode & { nlink: number }; file: PackedFile | null }>();
    for (const { path, stat } of walk(this.#root)) {
      refuseXattrs(path, this.#onSkipped);
      const inside = path.length === this.#root.length ? SLASH : path.subarray(this.#root.length);
      const key = stat.isDirectory() || stat.nlink === 1n ? null : `${stat.dev}:${stat.ino}`;
      const known = key === null ? undefined : byInode.get(key);
      if (known !== undefined) {
        const node = { ...known.node, path: inside };
        nodes.push(node);
        known.file?.nodes.push(node);
        continue;
      }
      const regular = stat.isFile();
      const size = regular ? Number(stat.size) : 0;
      const target = stat.isSymbolicLink() ? readlinkSync(path, 'buffer') : EMPTY;
      const seconds = floorDivide(stat.mtimeNs);
      const node = {
        nodeType: stat.isDirectory() ? NodeType.directory : stat.isSymbolicLink() ? NodeType.symlink : NodeType.file,
        path: inside,
        // Numbers of our own: those of the file system are not unique where several are mounted in the tree.
        ino: nodes.length + 1,
        // Of directories it means nothing, but the Go program shows it.
        size: stat.isSymbolicLink() ? target.length : stat.isDirectory() ? Number(stat.size) : size,
        mtime: Number(seconds),
        mtimeNsec: Number(stat.mtimeNs - seconds * 1_000_000_000n),
        mode: Number(stat.mode),
        nlink: stat.isDirectory() ? Number(stat.nlink) : 1,
        uid: Number(stat.uid),
        gid: Number(stat.gid),
        rdev: stat.isCharacterDevice() || stat.isBlockDevice() ? deviceOf(stat.rdev) : 0,
        target,
        contentHash: EMPTY,
        dataPos: regular ? this.#end + BLOCK_TYPE_SIZE : 0,
        dataLen: size,
        remote: null,
      };
      nodes.push(node);
      const file = regular ? { path, size, dev: stat.dev, ino: stat.ino, position: this.#end, nodes: [node] } : null;
      if (key !== null) byInode.set(key, { node, file });
      if (file === null) continue;
      this.#files++;
      this.#end += BLOCK_TYPE_SIZE + size + BLOCK_SUM_SIZE;
      this.#contentBytes += size;
      yield file;
    }
    for (const { file } of byInode.values()) {
      for (const node of file?.nodes ?? []) node.nlink = file!.nodes.length;
    }
    this.#complete = true;
  }
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
