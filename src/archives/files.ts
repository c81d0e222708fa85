import type { Archive } from '../archive/index.js';
import type { LayerIndex, Nid, SpanIndex } from '../bytes/index.js';
import { boolean, ClipError, number, optionsOf, string } from '../bytes/index.js';
import { ArchiveFile, LayerIndexes } from '../check/index.js';
import {
  ErofsReader,
  type FileType,
  fileType,
  InodeView,
  mapFileRange,
  resolvePath,
  S_IFMT,
  S_IFREG,
  WalkLimit,
} from '../erofs/index.js';
import { SpanReader } from '../lazy/index.js';
import { LayerSpans } from '../spans/index.js';
import { abortable, accessChecks, openSource, type SourceAccess } from './verify.js';

export interface FileEntry {
  /** From the root of the image, with a slash before it. Bytes that are not UTF-8 are replaced: then `pathBytes` is the path. */
  readonly path: string;
  readonly pathBytes?: Uint8Array;
  readonly type: FileType;
  /** Permissions, with set-uid, set-gid and sticky bit: 0o755. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly nlink: number;
  readonly mtime: Date;
  /** Equal for the names of one file. */
  readonly nid: number;
  /** Of a symbolic link. */
  readonly target?: string;
  /** Of a device. */
  readonly rdev?: { readonly major: number; readonly minor: number };
}

export interface ListOptions {
  /** A directory to list, or a file. Default "/". */
  readonly path?: string | undefined;
  /** Also list the directories below. Default false. */
  readonly recursive?: boolean | undefined;
}

export interface ReadOptions extends SourceAccess {
  /** Of the file, in bytes. Default: all of it. */
  readonly offset?: number | undefined;
  readonly length?: number | undefined;
  /** The cache directory of a clipd, where layers of version 1 archives of images were indexed. Default: no layer was. */
  readonly cachePath?: string | undefined;
}

/** The largest part of a file that is read at once: it is one buffer. */
const MAX_READ = 2 ** 31;

const checkList = optionsOf(
  {},
  {
    path: (value: unknown, where: string) => pathOf(value, where),
    recursive: boolean,
  },
);
const checkRead = optionsOf(
  {},
  { ...accessChecks, offset: number(0, 2 ** 53), length: number(0, MAX_READ), cachePath: string },
);

function pathOf(value: unknown, where: string): string {
  if (typeof value === 'string' && !value.includes('\0')) return value;
  throw new ClipError('USAGE', `${where} must be a path`);
}

function find(reader: ErofsReader, archivePath: string, path: string, follow: boolean): number {
  const nid = resolvePath(reader, Buffer.from(path, 'utf8'), follow);
  if (nid >= 0) return nid;
  throw new ClipError('NOT_FOUND', `no ${path} in ${archivePath}`, {
    hint: `see: clipctl ls -R --clip ${archivePath}`,
  });
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function nameOf(bytes: Uint8Array): { path: string; pathBytes?: Uint8Array } {
  try {
    return { path: decoder.decode(bytes) };
  } catch {
    return { path: Buffer.from(bytes).toString('utf8'), pathBytes: bytes };
  }
}

function entryOf(reader: ErofsReader, inode: InodeView, path: Uint8Array, nid: Nid): FileEntry {
  reader.inode(nid, inode);
  const { mode, uid, gid, size, nlink, mtime, mtimeNsec } = inode;
  return {
    ...nameOf(path),
    type: fileType(mode),
    mode: mode & 0o7777,
    uid,
    gid,
    size,
    nlink,
    mtime: new Date(mtime * 1000 + mtimeNsec / 1e6),
    nid,
    ...(inode.isSymlink ? { target: Buffer.from(reader.readlink(nid)).toString('utf8') } : {}),
    ...(inode.rdev === 0 ? {} : { rdev: { major: inode.rdevMajor, minor: inode.rdevMinor } }),
  };
}

/**
 * The files of an archive, each directory before what is in it. Nothing is fetched.
 * @throws FormatError when the archive is damaged; ClipError NOT_FOUND
 * @example
 * for (const { path, size } of listFiles('py.clip', { path: '/usr/bin', recursive: true })) console.log(path, size);
 */
export function* listFiles(archivePath: string, options: ListOptions = {}): Generator<FileEntry, void, undefined> {
  const { path = '/', recursive = false } = checkList(options, 'listFiles: options');
  const file = ArchiveFile.open(archivePath);
  try {
    const reader = new ErofsReader(file.archive.tree);
    const inode = new InodeView();
    const top = find(reader, archivePath, path, true);
    const given = Buffer.from(`/${path.split('/').filter(Boolean).join('/')}`, 'utf8');
    reader.inode(top, inode);
    if (!inode.isDirectory) {
      yield entryOf(reader, inode, given, top);
      return;
    }
    const limit = new WalkLimit(reader);
    const pending: { path: Buffer; nid: Nid }[] = [{ path: given.length === 1 ? Buffer.alloc(0) : given, nid: top }];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      const { path: directory, nid } = next;
      const below: typeof pending = [];
      const children: { path: Buffer; nid: Nid }[] = [];
      reader.readdir(nid, 0, (child, _type, start, end) => {
        const name = reader.image.subarray(start, end);
        const dots = name.every((byte) => byte === 0x2e) && name.length <= 2;
        if (!dots) children.push({ path: Buffer.concat([directory, Buffer.from('/'), name]), nid: child });
        return true;
      });
      limit.visit(children.length);
      for (const child of children) {
        const entry = entryOf(reader, inode, child.path, child.nid);
        if (entry.type === 'directory') below.push(child);
        yield entry;
      }
      if (recursive) pending.push(...below.reverse());
    }
  } finally {
    file.close();
  }
}

/**
 * Reads a file of an archive, or a part of it, without mounting: fetches the spans that it lies in and checks them as a mount would.
 * Symbolic links are followed inside the image.
 * @throws ClipError NOT_FOUND, USAGE (no regular file), LIMIT, and what the source throws; AbortError
 * @example
 * const text = Buffer.from(await readFile('py.clip', '/etc/os-release')).toString();
 */
export async function readFile(archivePath: string, path: string, options: ReadOptions = {}): Promise<Uint8Array> {
  pathOf(path, 'readFile: path');
  checkRead(options, 'readFile: options');
  const { offset = 0, length, signal, cachePath } = options;
  const file = ArchiveFile.open(archivePath, cachePath === undefined ? null : new LayerIndexes(cachePath));
  try {
    const { archive } = file;
    const reader = new ErofsReader(archive.tree);
    const inode = new InodeView();
    const nid = find(reader, archivePath, path, true);
    reader.inode(nid, inode);
    if ((inode.mode & S_IFMT) !== S_IFREG) {
      throw new ClipError('USAGE', `${path} in ${archivePath} is a ${fileType(inode.mode)}, not a file`, {
        hint: `see: clipctl ls -l ${archivePath} ${path}`,
      });
    }
    const wanted = Math.max(0, Math.min(length ?? inode.size, inode.size - offset));
    if (wanted > MAX_READ) {
      throw new ClipError('LIMIT', `${path} has ${inode.size} bytes: more than one buffer holds`, {
        hint: 'read it in parts: offset and length',
      });
    }
    const bytes = new Uint8Array(wanted);
    const source = await openSource(file, options);
    try {
      await abortable(`reading ${path} of ${archivePath}`, signal, () =>
        fill(archive, reader, nid, offset, bytes, new SpanReader(archive, source), signal),
      );
    } finally {
      await source.close();
    }
    return bytes;
  } finally {
    file.close();
  }
}

/** Reads the bytes of a file from `offset` on. Holes are zeros already. */
async function fill(
  archive: Archive,
  reader: ErofsReader,
  nid: Nid,
  offset: number,
  bytes: Uint8Array,
  spans: SpanReader,
  signal: AbortSignal | undefined,
): Promise<void> {
  const pieces: { layer: LayerIndex; start: number; at: number; length: number }[] = [];
  let at = 0;
  mapFileRange(reader, archive.placement, new InodeView(), nid, offset, bytes.length, (layer, start, length) => {
    if (layer >= 0) pieces.push({ layer, start, at, length });
    at += length;
  });
  let last: { layer: LayerIndex; span: SpanIndex; bytes: Uint8Array } = {
    layer: -1,
    span: -1,
    bytes: new Uint8Array(0),
  };
  for (const piece of pieces) {
    const layer = new LayerSpans(archive.image.layers[piece.layer]!.digest, archive.layers[piece.layer]!.table);
    for (let done = 0; done < piece.length; ) {
      const position = piece.start + done;
      const span = layer.at(position);
      if (last.layer !== piece.layer || last.span !== span) {
        last = { layer: piece.layer, span, bytes: await spans.read(piece.layer, span, signal) };
      }
      const from = position - layer.start(span);
      const part = last.bytes.subarray(from, from + piece.length - done);
      bytes.set(part, piece.at + done);
      done += part.length;
    }
  }
}
