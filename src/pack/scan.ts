import { readdirSync, readlinkSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import { encodeDevice } from '../erofs/index.js';
import { BLOCK_SUM_SIZE, BLOCK_TYPE_SIZE, HEADER_SIZE, type LegacyNode, NodeType } from '../legacy/index.js';
import { FileStatus, listXattr } from '../linux/index.js';

/** A file whose content is to be packed, and where. */
export interface PackedFile {
  /** With a NUL at its end. */
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

const [TYPE_MASK, REGULAR, DIRECTORY, SYMLINK, CHARACTERS, BLOCKS] = [
  0o170000, 0o100000, 0o040000, 0o120000, 0o020000, 0o060000,
];
const EMPTY = new Uint8Array(0);

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
    const status = new FileStatus();
    for (const path of walk(this.#root, status)) {
      refuseXattrs(path, this.#onSkipped);
      const { mode, nlink } = status;
      const type = mode & TYPE_MASK;
      const inside = path.length === this.#root.length + 1 ? SLASH : path.subarray(this.#root.length, -1);
      const key = type === DIRECTORY || nlink === 1 ? null : `${status.dev}:${status.ino}`;
      const known = key === null ? undefined : byInode.get(key);
      if (known !== undefined) {
        const node = { ...known.node, path: inside };
        nodes.push(node);
        known.file?.nodes.push(node);
        continue;
      }
      const regular = type === REGULAR;
      const size = regular ? status.size : 0;
      const target = type === SYMLINK ? system(path, () => readlinkSync(path.subarray(0, -1), 'buffer')) : EMPTY;
      const isDevice = type === CHARACTERS || type === BLOCKS;
      const node = {
        nodeType: type === DIRECTORY ? NodeType.directory : type === SYMLINK ? NodeType.symlink : NodeType.file,
        path: inside,
        // Numbers of our own: those of the file system are not unique where several are mounted in the tree.
        ino: nodes.length + 1,
        // Of directories it means nothing, but the Go program shows it.
        size: type === SYMLINK ? target.length : type === DIRECTORY ? status.size : size,
        mtime: status.mtime,
        mtimeNsec: status.mtimeNsec,
        mode,
        nlink: type === DIRECTORY ? nlink : 1,
        uid: status.uid,
        gid: status.gid,
        rdev: isDevice ? encodeDevice(status.rdevMajor, status.rdevMinor) : 0,
        target,
        contentHash: EMPTY,
        dataPos: regular ? this.#end + BLOCK_TYPE_SIZE : 0,
        dataLen: size,
        remote: null,
      };
      nodes.push(node);
      const file = regular
        ? { path, size, dev: status.dev, ino: status.ino, position: this.#end, nodes: [node] }
        : null;
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

const SLASH = Buffer.from('/');

/** The paths below a directory, each with a NUL at its end: depth first, each directory before what is in it. `status` is of the last. */
function* walk(root: Buffer, status: FileStatus): Iterable<Buffer> {
  const pending: Buffer[] = [joined(root, null)];
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    const current = path;
    system(current, () => status.read(current));
    const isDirectory = (status.mode & TYPE_MASK) === DIRECTORY;
    yield current;
    if (!isDirectory) continue;
    const directory = current.subarray(0, -1);
    const names = system(current, () => readdirSync(directory, { encoding: 'buffer' }));
    names.sort((a, b) => Buffer.compare(b, a));
    for (const name of names) pending.push(joined(directory, name));
  }
}

function joined(directory: Buffer, name: Buffer | null): Buffer {
  const slash = name === null ? 0 : 1;
  const path = Buffer.allocUnsafe(directory.length + slash + (name?.length ?? 0) + 1);
  path.set(directory);
  if (name !== null) {
    path[directory.length] = SLASH[0]!;
    path.set(name, directory.length + 1);
  }
  path[path.length - 1] = 0;
  return path;
}

/** @param path with a NUL at its end */
function system<T>(path: Buffer, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    const { code = String(cause) } = cause as NodeJS.ErrnoException;
    const kind = code === 'ENOENT' ? 'NOT_FOUND' : code === 'EACCES' || code === 'EPERM' ? 'PERMISSION' : 'SYSTEM';
    throw new ClipError(kind, `${text(path)}: ${code}`, {
      cause,
      ...(code === 'ENOENT' ? { hint: 'the tree changed while it was packed: pack it when it is at rest' } : {}),
    });
  }
}

/** Of a path with a NUL at its end. */
export const text = (path: Buffer): string => path.toString('utf8', 0, path.length - 1);

function refuseXattrs(path: Buffer, onSkipped: ((what: string) => void) | null): void {
  let names: Buffer[];
  try {
    names = listXattr(path.subarray(0, -1));
  } catch {
    return; // the file system has none
  }
  if (names.length === 0) return;
  const list = names.map((name) => name.toString()).join(', ');
  if (onSkipped === null) {
    throw new ClipError('UNSUPPORTED', `${text(path)} has extended attributes (${list}), which version 1 cannot hold`, {
      hint: '--skip-unsupported packs the tree without them',
    });
  }
  onSkipped(`${text(path)}: left out extended attributes: ${list}`);
}
