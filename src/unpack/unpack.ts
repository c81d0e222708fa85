import { closeSync, constants, ftruncateSync, linkSync, mkdirSync, openSync, readdirSync, symlinkSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Archive } from '../archive/index.js';
import type { LayerIndex, Nid, SpanIndex } from '../bytes/index.js';
import { ClipError, lowerBound } from '../bytes/index.js';
import { ErofsReader, InodeView, S_IFMT } from '../erofs/index.js';
import { NO_STATE } from '../gzip/index.js';
import { SystemCallError, sys } from '../linux/index.js';
import type { ImageSource } from '../oci/index.js';
import { LayerSpans } from '../spans/index.js';
import { UnpackDirectory } from './directory.js';
import { Journal, type Stretch } from './journal.js';
import type { ChunkSpan } from './messages.js';
import { applyMetadata } from './metadata.js';
import { SpanWorkers } from './span-workers.js';
import { type Entry, firstOf, planTree, type TreePlan } from './tree-plan.js';

export interface UnpackProgress {
  readonly digest: string;
  /** Compressed bytes of this layer. */
  readonly done: number;
  readonly total: number;
  /** Bytes a second. */
  readonly rate: number;
}

export interface UnpackOptions {
  readonly archive: Archive;
  readonly source: Pick<ImageSource, 'fetchInto'>;
  /** Is made; one that exists must be empty, or the half of an earlier run. */
  readonly directory: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: UnpackProgress) => void;
  /** Threads. Default: one per core. */
  readonly workers?: number;
}

export interface UnpackResult {
  readonly directory: string;
  readonly files: number;
  readonly directories: number;
  /** Compressed bytes that were fetched; less than the image's when an earlier run had done a part. */
  readonly fetchedBytes: number;
  readonly resumed: boolean;
  readonly milliseconds: number;
}

/** Compressed bytes that one request asks for: the round trip is then a small part of it. */
const CHUNK_BYTES = 4 * 1024 * 1024;
/** Requests under way. With chunks of 4 MiB and 1 Gbit/s, 20 ms away, two fill the link; the disk of a registry wants more. */
const REQUESTS = 6;
/** Chunks that are there and wait for a thread, besides one under work in each: memory is bounded by (6 + 2 × threads) × 4 MiB. */
const WAITING_PER_WORKER = 2;

/** The spans of a layer that hold data of files, in stretches of some 4 MiB. */
function stretchesOf(archive: Archive, layer: LayerIndex, plan: TreePlan): Stretch[] {
  const { table } = archive.layers[layer]!;
  const pieces = plan.pieces[layer]!;
  const spans = new LayerSpans(archive.image.layers[layer]!.digest, table);
  const inOrder = table.kind === 'zstd-stream';
  const needed = (span: SpanIndex): boolean => {
    if (inOrder) return pieces.count > 0;
    const [start, end] = [spans.start(span), spans.start(span) + spans.length(span)];
    const at = lowerBound(pieces.start, end) - 1;
    for (let i = at; i >= 0 && i > at - 2; i--) if (pieces.start[i]! + pieces.length[i]! > start) return true;
    return false;
  };
  const stretches: Stretch[] = [];
  for (let span = 0; span < table.count; span++) {
    if (!needed(span)) continue;
    const last = stretches.at(-1);
    if (last?.end === span && spans.compressedBytes(last.first, span + 1) <= CHUNK_BYTES) {
      stretches[stretches.length - 1] = { ...last, end: span + 1 };
    } else stretches.push({ layer, first: span, end: span + 1 });
  }
  return stretches;
}

function chunkSpans(archive: Archive, spans: LayerSpans, { layer, first, end }: Stretch): ChunkSpan[] {
  const base = spans.byteStart(first);
  return Array.from({ length: end - first }, (_, i) => {
    const span = first + i;
    return {
      start: spans.start(span),
      length: spans.length(span),
      from: spans.byteStart(span) - base,
      to: spans.byteEnd(span) - base,
      sha256: spans.sha256(span),
      crc32: spans.crc32(span),
      startBit: spans.startBit(span),
      state: {
        stored: archive.checkpointState(layer, span) ?? NO_STATE.stored,
        sha256: spans.stateSha256(span),
      },
      name: spans.name(span),
    };
  });
}

class Unpacking {
  readonly #options: UnpackOptions;
  readonly #directory: UnpackDirectory;
  /** By descriptor: no name above it is looked up again. */
  readonly #root: Buffer;
  readonly #plan: TreePlan;
  readonly #journal: Journal;
  readonly #done: ReadonlySet<string>;
  readonly #reader: ErofsReader;
  readonly #inode = new InodeView();
  readonly #owners = process.getuid?.() === 0;
  readonly #umask = process.umask();
  readonly resumed: boolean;
  fetchedBytes = 0;

  constructor(options: UnpackOptions) {
    this.#options = options;
    this.#plan = planTree(options.archive, options.directory);
    this.#directory = UnpackDirectory.open(options.directory);
    this.#root = Buffer.from(this.#directory.root);
    this.#reader = new ErofsReader(options.archive.tree);
    try {
      this.#journal = new Journal(this.#directory, options.archive.identity);
      const done = this.#claim();
      this.resumed = done !== null;
      this.#done = done ?? new Set();
    } catch (error) {
      this.#directory.close();
      throw error;
    }
  }

  get files(): number {
    return this.#plan.files.nid.length;
  }

  get directories(): number {
    return this.#plan.directories.length;
  }

  /** @returns what an earlier run has done, if one was here */
  #claim(): Set<string> | null {
    const done = this.#journal.read();
    if (done === null && readdirSync(this.#root).length > 0) {
      throw new ClipError('CONFLICT', `${this.#directory.path} is not empty`, {
        hint: 'give a new directory, or empty it',
      });
    }
    this.#directory.closeToOthers();
    if (done === null) this.#journal.begin();
    return done;
  }

  #path({ path }: Pick<Entry, 'path'>): Buffer {
    // The descriptor's path is a link, and attributes are set without following links.
    return path.length === 0
      ? Buffer.concat([this.#root, Buffer.from('/.')])
      : Buffer.concat([this.#root, Buffer.from('/'), path]);
  }

  /** Directories, and what has no data. They get their attributes at the end. */
  makeTree(): void {
    for (const entry of this.#plan.directories.slice(1)) {
      // Closed to other users until all is there, so that none of them can put a link in our way.
      exists(() => mkdirSync(this.#path(entry), 0o700));
    }
    for (const entry of this.#plan.others) this.#makeOther(entry);
  }

  #makeOther(entry: Entry): void {
    const path = this.#path(entry);
    this.#reader.inode(entry.nid, this.#inode);
    if (this.#inode.isSymlink) {
      const target = Buffer.from(this.#reader.readlink(entry.nid));
      exists(() => symlinkSync(target, path));
    } else {
      const { mode, rdevMajor: major, rdevMinor: minor } = this.#inode;
      // makedev(3) of the C library.
      const device = ((major & 0xfff) << 8) | (minor & 0xff) | ((minor & ~0xff) << 12);
      const result = sys.mknod(path, (mode & S_IFMT) | 0o600, device >>> 0);
      if (result < 0 && result !== -17) throw refused(path, new SystemCallError('mknod', -result));
    }
    this.#finish(path, entry.nid, -1);
  }

  #finish(path: Buffer, nid: Nid, made: number): void {
    this.#reader.inode(nid, this.#inode);
    try {
      applyMetadata(path, this.#inode, this.#reader, this.#owners, made);
    } catch (cause) {
      throw refused(path, cause);
    }
  }

  async fetch(workers: SpanWorkers): Promise<void> {
    const { archive, signal, onProgress } = this.#options;
    workers.begin({
      directory: this.#directory.root,
      tree: archive.tree,
      files: this.#plan.files,
      pieces: this.#plan.pieces,
      owners: this.#owners,
      umask: this.#umask,
    });
    for (const [layer, meta] of archive.image.layers.entries()) {
      if (firstOf(archive, layer) !== layer) continue;
      const spans = new LayerSpans(meta.digest, archive.layers[layer]!.table);
      const stretches = stretchesOf(archive, layer, this.#plan);
      const total = stretches.reduce((sum, { first, end }) => sum + spans.compressedBytes(first, end), 0);
      const inOrder = archive.layers[layer]!.table.kind === 'zstd-stream';
      // A stream begins at its beginning, however far an earlier run came.
      const waiting = stretches.filter(({ first, end }) => inOrder || !this.#done.has(`${layer} ${first} ${end}`));
      const started = performance.now();
      let done = total - waiting.reduce((sum, { first, end }) => sum + spans.compressedBytes(first, end), 0);
      let fetchedHere = 0;
      const limit = new Limit(REQUESTS + WAITING_PER_WORKER * workers.size);
      const work = new Set<Promise<void>>();
      let failed: unknown = null;
      for (const stretch of waiting) {
        await limit.enter();
        if (failed !== null) break;
        signal?.throwIfAborted();
        const fetching = this.#fetch(spans, stretch);
        const before = inOrder ? [...work].at(-1) : undefined;
        const one = fetching
          .then(async (bytes) => {
            await before;
            await workers.run({
              layer,
              kind: spans.table.kind,
              bytes,
              spans: chunkSpans(archive, spans, stretch),
            });
            this.#journal.add(stretch);
            done += spans.compressedBytes(stretch.first, stretch.end);
            fetchedHere += spans.compressedBytes(stretch.first, stretch.end);
            const rate = fetchedHere / ((performance.now() - started) / 1000);
            onProgress?.({ digest: meta.digest, done, total, rate });
          })
          .catch((error: unknown) => {
            failed ??= error;
          })
          .finally(() => {
            work.delete(one);
            limit.leave();
          });
        work.add(one);
      }
      await Promise.all(work);
      if (failed !== null) throw failed;
      this.fetchedBytes += fetchedHere;
    }
  }

  async #fetch(spans: LayerSpans, { layer, first, end }: Stretch): Promise<Uint8Array<ArrayBuffer>> {
    const { source, signal, archive } = this.#options;
    const bytes = new Uint8Array(spans.compressedBytes(first, end));
    const { digest, size } = archive.image.layers[layer]!;
    await source.fetchInto(digest, spans.byteStart(first), bytes, { size, signal });
    return bytes;
  }

  /** What could not be done before all data was there: further names, sparse files, attributes of directories. */
  finish(): void {
    const { files, unfinished, links, directories } = this.#plan;
    const paths = Buffer.from(files.paths.buffer, files.paths.byteOffset, files.paths.length);
    for (const file of unfinished) {
      const path = this.#path({ path: paths.subarray(files.pathAt[file]!, files.pathAt[file + 1]!) });
      this.#reader.inode(files.nid[file]!, this.#inode);
      const { size, mode } = this.#inode;
      const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_NOFOLLOW, mode & 0o777);
      ftruncateSync(fd, size);
      closeSync(fd);
      this.#finish(path, files.nid[file]!, -1);
    }
    for (const link of links) exists(() => linkSync(this.#path({ path: link.first }), this.#path(link)));
    // Children first: making a child changes its parent's time. The root is the last: with its attributes other users may get in,
    // and no run goes on in what they could have changed.
    for (const entry of directories.slice(1).reverse()) this.#finish(this.#path(entry), entry.nid, -1);
    this.#journal.remove();
    this.#finish(this.#path(directories[0]!), directories[0]!.nid, -1);
  }

  close(): void {
    this.#journal.close();
    this.#directory.close();
  }

  /** For people, a path instead of a descriptor. */
  explain(error: unknown): unknown {
    if (error instanceof Error) error.message = error.message.replaceAll(this.#directory.root, this.#directory.path);
    return error;
  }
}

/** Upper bound of what runs at a time. */
class Limit {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  enter(): Promise<void> {
    if (this.#free > 0) {
      this.#free--;
      return Promise.resolve();
    }
    return new Promise((enter) => this.#waiting.push(enter));
  }

  leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free++;
    else next();
  }
}

/** An earlier run may have made it. */
function exists(make: () => void): void {
  try {
    make();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

function refused(path: Buffer, cause: unknown): ClipError {
  const { code, message } = cause as NodeJS.ErrnoException;
  const needsRoot = code === 'EPERM' || code === 'EACCES';
  return new ClipError(needsRoot ? 'PERMISSION' : 'SYSTEM', `${path.toString()}: ${message}`, {
    cause,
    hint: needsRoot
      ? 'devices and some attributes need root'
      : 'give a directory on a file system that takes what the image has',
  });
}

/**
 * Makes a directory of a whole image: every file with its owner, mode, times, links and xattrs. Ranges are fetched side by side,
 * spans are inflated on all cores, and each is verified before any of it is written. A run that was interrupted goes on where it was.
 * @throws ClipError CONFLICT when the directory is not empty; PERMISSION when another user may write to it; DIGEST_MISMATCH, NETWORK, SYSTEM naming what is wrong
 */
export async function unpackArchive(options: UnpackOptions): Promise<UnpackResult> {
  const started = performance.now();
  const workers = new SpanWorkers(options.workers);
  let unpacking: Unpacking;
  try {
    unpacking = new Unpacking(options);
    try {
      unpacking.makeTree();
      await unpacking.fetch(workers);
      unpacking.finish();
    } catch (error) {
      throw unpacking.explain(error);
    } finally {
      unpacking.close();
    }
  } finally {
    await workers.close();
  }
  const { resumed, fetchedBytes, files, directories } = unpacking;
  const milliseconds = Math.round(performance.now() - started);
  return { directory: resolve(options.directory), files, directories, fetchedBytes, resumed, milliseconds };
}
