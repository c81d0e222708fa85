import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  fstatSync,
  lchownSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import type { Nid } from '../bytes/index.js';
import { AbortError, anyFunction, boolean, ClipError, counted, fields, lowerBound, string } from '../bytes/index.js';
import { ArchiveFile, openStorage, type StorageOverride } from '../check/index.js';
import { ErofsReader, InodeView, mapFileRange, S_IFBLK, S_IFCHR, S_IFLNK, S_IFMT, S_IFREG } from '../erofs/index.js';
import { check, setFileTime, sys } from '../linux/index.js';
import type { S3Credentials } from '../s3/index.js';
import { signalOption } from './create.js';
import type { PackResult, UnpackItem } from './pack-protocol.js';
import { jobsOf, PackWorkers } from './workers.js';

export interface ExtractArchiveOptions {
  /** A version 1 archive that holds its data, or whose data is in S3. */
  readonly archivePath: string;
  /** A directory that is empty, or does not exist yet. */
  readonly outputPath: string;
  /** Devices and owners need root; without it they are left out, with a warning. Default false: such a file is an error. */
  readonly skipUnsupported?: boolean | undefined;
  /** Where the data is, if not where the archive says. */
  readonly storageInfo?: StorageOverride | undefined;
  readonly credentials?: S3Credentials | null | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
  readonly onWarning?: ((warning: string) => void) | undefined;
}

export interface ExtractArchiveResult {
  readonly outputPath: string;
  /** Names that were made, and bytes of content. */
  readonly names: number;
  readonly contentBytes: number;
  readonly warnings: readonly string[];
  readonly milliseconds: number;
}

const checkOptions = fields(
  { archivePath: string, outputPath: string },
  { skipUnsupported: boolean, signal: signalOption, onProgress: anyFunction, onWarning: anyFunction },
);

/** Where a directory's mode, owner and time are set once everything in it is there. */
interface Directory {
  readonly path: Buffer;
  readonly inode: InodeView;
}

/**
 * Unpacks an archive: modes, owners, times, hard links, devices, and every block against its checksum. Nothing is written outside
 * of `outputPath`, whatever the archive says: names come from a tree in which a directory is a directory, and everything is made
 * anew below a descriptor of a directory that only its owner may enter until it is done.
 * @throws ClipError naming the path: DIGEST_MISMATCH when data is damaged (the other files are there all the same), …
 */
export async function extractArchive(options: ExtractArchiveOptions): Promise<ExtractArchiveResult> {
  checkOptions(options, 'extractArchive: options');
  const started = performance.now();
  const { outputPath, signal } = options;
  const file = ArchiveFile.open(options.archivePath);
  try {
    const { storage } = file.archive;
    if (storage.kind === 'oci') {
      throw new ClipError('UNSUPPORTED', `${options.archivePath} is the index of an image and holds no data`, {
        hint: `make a directory of the image with: clipctl unpack ${options.archivePath} ${outputPath}`,
      });
    }
    const root = openTarget(outputPath);
    const data = storage.kind === 's3' ? await download(file, outputPath, options) : file.fd;
    const extraction = new Extraction(file, data, root, options);
    try {
      return { outputPath, ...(await extraction.run()), milliseconds: Math.round(performance.now() - started) };
    } finally {
      if (data !== file.fd) closeSync(data);
      closeSync(root);
    }
  } catch (error) {
    if (signal?.aborted) throw new AbortError(`unpacking to ${outputPath}`, signal); // what is there is not all
    throw error;
  } finally {
    file.close();
  }
}

/** The target directory, made if need be, closed to others until all is done. */
function openTarget(path: string): number {
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== 'EEXIST') {
      throw new ClipError('SYSTEM', `cannot make ${path}: ${code}`, {
        cause,
        ...(code === 'ENOENT' ? { hint: 'the directory above it must exist' } : {}),
      });
    }
  }
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (cause) {
    throw new ClipError('SYSTEM', `cannot unpack to ${path}: ${(cause as NodeJS.ErrnoException).code}`, { cause });
  }
  // Its owner could open it again, and put a link in our way.
  const { uid } = fstatSync(fd);
  if (uid !== process.geteuid?.()) {
    closeSync(fd);
    throw new ClipError('PERMISSION', `${path} belongs to user ${uid}, not to user ${process.geteuid?.()}`, {
      hint: 'unpack to a new directory',
    });
  }
  const below = `/proc/self/fd/${fd}`;
  if (readdirSync(below).length === 0) {
    chmodSync(below, 0o700);
    return fd;
  }
  closeSync(fd);
  throw new ClipError('CONFLICT', `${path} is not empty`, {
    hint: 'unpack to a new directory: what lies there could lead out of it',
  });
}

/** The object of an S3 archive, in a file without a name on the disk that it is unpacked to. */
async function download(file: ArchiveFile, outputPath: string, options: ExtractArchiveOptions): Promise<number> {
  const path = join(outputPath, '.clip-download');
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
  rmSync(path);
  const { archive } = file;
  const source = await openStorage(archive, file.fd, { s3: options.credentials }, options.storageInfo);
  try {
    const size = archive.image.layers[0]?.uncompressedSize ?? 0;
    const pieces = Array.from({ length: Math.ceil(size / DOWNLOAD_PIECE) }, (_, i) => i * DOWNLOAD_PIECE);
    const work = async (): Promise<void> => {
      for (let start = pieces.shift(); start !== undefined; start = pieces.shift()) {
        const bytes = new Uint8Array(Math.min(DOWNLOAD_PIECE, size - start));
        await source.fetchInto(archive.image.layers[0]!.digest, start, bytes, { signal: options.signal, size });
        for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done, start + done);
      }
    };
    await Promise.all(Array.from({ length: DOWNLOADS }, work));
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  } finally {
    await source.close();
  }
}
const DOWNLOAD_PIECE = 8 * 1024 * 1024;
const DOWNLOADS = 4;

class Extraction {
  readonly #reader: ErofsReader;
  readonly #file: ArchiveFile;
  readonly #data: number;
  readonly #below: Buffer;
  readonly #options: ExtractArchiveOptions;
  readonly #own = process.getuid?.() === 0;
  readonly #directories: Directory[] = [];
  readonly #items: UnpackItem[] = [];
  readonly #paths: Buffer[] = [];
  /** By nid, of files with several names: the path of the first. */
  readonly #firstNames = new Map<number, Buffer>();
  readonly #links: [first: Buffer, path: Buffer][] = [];
  readonly #warnings: string[] = [];
  #names = 0;

  constructor(file: ArchiveFile, data: number, root: number, options: ExtractArchiveOptions) {
    this.#reader = new ErofsReader(file.archive.tree);
    this.#file = file;
    this.#data = data;
    this.#below = Buffer.from(`/proc/self/fd/${root}`);
    this.#options = options;
  }

  async run(): Promise<Omit<ExtractArchiveResult, 'outputPath' | 'milliseconds'>> {
    this.#walk();
    const contentBytes = this.#items.reduce((sum, { size }) => sum + size, 0);
    const problems = await this.#unpackFiles(contentBytes);
    for (const [first, path] of this.#links) {
      // A damaged file was not made, so its other names are not, either.
      this.#attempt(path, () => linkSync(first, path), problems.length > 0);
    }
    // From below: making something in a directory changes its time, and closing it keeps others from being made.
    for (const { path, inode } of this.#directories.reverse()) this.#finish(path, inode);
    if (problems.length > 0) {
      throw new ClipError(
        'DIGEST_MISMATCH',
        `${counted(problems.length, 'file')} not unpacked: ${problems.slice(0, 5).join('; ')}`,
        {
          hint: 'the archive is damaged there: take it from its source again. All other files are unpacked',
        },
      );
    }
    return { names: this.#names, contentBytes, warnings: this.#warnings };
  }

  /** As users know it. */
  #said(path: Buffer): string {
    return `${this.#options.outputPath}${path.subarray(this.#below.length).toString()}`;
  }

  #attempt(path: Buffer, work: () => void, mayFail = false): void {
    try {
      work();
      this.#names++;
    } catch (cause) {
      if (mayFail) return;
      const { code = String(cause) } = cause as NodeJS.ErrnoException;
      throw new ClipError('SYSTEM', `cannot make ${this.#said(path)}: ${code}`, { cause });
    }
  }

  /** Makes directories, symlinks and devices, and notes what the workers are to make. */
  #walk(): void {
    const reader = this.#reader;
    const slash = Buffer.from('/');
    const pending: [nid: Nid, path: Buffer][] = [[reader.rootNid, this.#below]];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      this.#options.signal?.throwIfAborted();
      const [nid, path] = next;
      const inode = new InodeView();
      reader.inode(nid, inode);
      if (!inode.isDirectory) {
        this.#make(nid, path, inode);
        continue;
      }
      if (path !== this.#below) this.#attempt(path, () => mkdirSync(path, { mode: 0o700 }));
      this.#directories.push({ path, inode });
      reader.readdir(nid, 0, (child, _type, start, end) => {
        const name = Buffer.from(reader.image.subarray(start, end));
        if (name.toString('latin1') !== '.' && name.toString('latin1') !== '..') {
          pending.push([child, Buffer.concat([path, slash, name])]);
        }
        return true;
      });
    }
  }

  #make(nid: Nid, path: Buffer, inode: InodeView): void {
    if (inode.nlink > 1) {
      const first = this.#firstNames.get(nid);
      if (first !== undefined) {
        this.#links.push([first, path]);
        return;
      }
      this.#firstNames.set(nid, path);
    }
    const { mode } = inode;
    if ((mode & S_IFMT) === S_IFREG) {
      const index = this.#items.length;
      const { uid, gid, mtime, mtimeNsec, size } = inode;
      this.#items.push({ index, path, mode, uid, gid, mtime, mtimeNsec, size, ...this.#place(nid, size) });
      this.#paths.push(path);
      this.#names++;
    } else if ((mode & S_IFMT) === S_IFLNK) {
      this.#attempt(path, () => symlinkSync(Buffer.from(this.#reader.readlink(nid)), path));
      if (this.#own) lchownSync(path, inode.uid, inode.gid);
      setFileTime(path, inode.mtime, inode.mtimeNsec);
    } else this.#makeSpecial(path, inode);
  }

  #makeSpecial(path: Buffer, inode: InodeView): void {
    const { mode, rdevMajor, rdevMinor } = inode;
    const isDevice = (mode & S_IFMT) === S_IFCHR || (mode & S_IFMT) === S_IFBLK;
    if (isDevice && !this.#own) {
      if (this.#options.skipUnsupported !== true) {
        throw new ClipError('PERMISSION', `${this.#said(path)} is a device, which only root can make`, {
          hint: 'run as root, or with --skip-unsupported',
        });
      }
      this.#warn(`${this.#said(path)}: left out a device`);
      return;
    }
    // makedev(3): the kernel's 32 bits are the same for the small numbers that it takes in 64.
    const device = isDevice ? (rdevMinor & 0xff) | (rdevMajor << 8) | ((rdevMinor & ~0xff) << 12) : 0;
    this.#attempt(path, () => check(sys.mknod(path, mode & (S_IFMT | 0o777), device), 'mknod'));
    this.#finish(path, inode);
  }

  /** Where the content lies: one block, whose checksum follows it. */
  #place(nid: Nid, size: number): { start: number; length: number } {
    let start = 0;
    let found = 0;
    const { placement, layers } = this.#file.archive;
    mapFileRange(this.#reader, placement, new InodeView(), nid, 0, size, (layer, offset, length) => {
      if (layer < 0) return;
      if (found === 0) start = offset;
      found += length;
    });
    if (found === 0) return { start: 0, length: 0 };
    // The block may be longer than the file is said to be.
    const { blocks } = layers[0]!.table;
    const at = lowerBound(blocks!.start, start);
    return { start, length: blocks!.start[at] === start ? blocks!.length[at]! : found };
  }

  #finish(path: Buffer, inode: InodeView): void {
    if (this.#own) chownSync(path, inode.uid, inode.gid);
    chmodSync(path, inode.mode & 0o7777);
    // The target itself is named by its descriptor, a magic link, which is to be followed.
    setFileTime(path === this.#below ? Buffer.concat([path, Buffer.from('/.')]) : path, inode.mtime, inode.mtimeNsec);
  }

  async #unpackFiles(total: number): Promise<string[]> {
    const problems: string[] = [];
    const workers = new PackWorkers();
    this.#items.sort((a, b) => a.start - b.start); // the archive is read from front to back
    let done = 0;
    const take = (result: PackResult): void => {
      if (result.failure !== null)
        throw new ClipError('SYSTEM', `cannot unpack: ${this.#translated(result.failure.detail)}`);
      for (const { index, detail } of result.problems) problems.push(`${this.#said(this.#paths[index]!)}: ${detail}`);
      done += result.bytes;
      this.#options.onProgress?.(done, total);
    };
    const jobs = Array.from(jobsOf(this.#items), (items) => {
      return { job: { type: 'unpack', archive: this.#data, own: this.#own, items } as const, take };
    });
    try {
      await workers.run(jobs, this.#options.signal);
    } finally {
      await workers.close();
    }
    return problems;
  }

  #translated(detail: string): string {
    return detail.replace(this.#below.toString(), this.#options.outputPath);
  }

  #warn(text: string): void {
    this.#warnings.push(text);
    this.#options.onWarning?.(text);
  }
}

/** Bytes of an open archive file; for copying it. */
export function readRange(fd: number, start: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafeSlow(Math.max(0, Math.min(length, fstatSync(fd).size - start)));
  for (let done = 0; done < bytes.length; ) {
    const count = readSync(fd, bytes, done, bytes.length - done, start + done);
    if (count === 0) return bytes.subarray(0, done);
    done += count;
  }
  return bytes;
}
