import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  closeSync,
  constants,
  fstatSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { ClipError } from '../bytes/index.js';
import { REWRITE_VERSION } from '../erofs/index.js';
import { OwnDirectory } from '../paths/index.js';
import type { RewriteResult, RewriteTask } from './rewrite-worker.js';

/** In the cache directory. */
const DIRECTORY = 'kernel-trees';
/** Trees that are kept, the last used ones: 60 to 100 bytes a file each. One that is mounted and removed stays with the kernel. */
const MAX_KEPT = 64;
/** Behind the image. The kernel reads no further than the image's own end. */
const SUM_BYTES = 32;
const PAGE = 4096;

/** A tree that our writer wrote, in a file that this process has checked. */
export interface KernelTree {
  /** By descriptor: what happens to the cache directory's path leads to no other file. */
  readonly path: string;
  readonly bytes: number;
  close(): void;
}

interface TreeOf {
  readonly digest: string;
  readonly tree: () => Uint8Array;
  readonly layerBytes: readonly number[];
}

/**
 * The trees that the kernel mounts, in `kernel-trees/` of the cache directory: archives' trees, read and checked by our reader and
 * written by our writer, once for each archive. Each file is an image and the image's SHA-256.
 */
export class KernelTrees {
  readonly #cacheDirectory: string;
  readonly #writing = new Map<string, Promise<void>>();
  /** By name: what files were when their digests were compared. One that is the same is not read again. */
  readonly #checked = new Map<string, string>();

  constructor(cacheDirectory: string) {
    this.#cacheDirectory = cacheDirectory;
  }

  /**
   * The archive's tree for the kernel, made if need be. This process has read the whole file, and compared its digest: at the first time,
   * or again when it was touched.
   * @throws ClipError BAD_FORMAT when the tree is one that our writer would not make; SYSTEM when the cache cannot hold it
   */
  async open(of: TreeOf): Promise<KernelTree> {
    const name = nameOf(of);
    const found = this.#read(name);
    if (found !== null) return found;
    let writing = this.#writing.get(name);
    if (writing === undefined) {
      writing = this.#write(name, of).finally(() => this.#writing.delete(name));
      this.#writing.set(name, writing);
    }
    await writing;
    const made = this.#read(name);
    if (made === null)
      throw new ClipError('SYSTEM', `${this.#cacheDirectory}/${DIRECTORY}: what was written is not there`);
    return made;
  }

  #directory(): OwnDirectory {
    return OwnDirectory.open(join(this.#cacheDirectory, DIRECTORY), { make: true });
  }

  /** Null when it is not there, or not as it was written. */
  #read(name: string): KernelTree | null {
    let fd: number;
    try {
      const directory = this.#directory();
      try {
        fd = directory.open(name, constants.O_RDONLY);
      } finally {
        directory.close();
      }
    } catch (error) {
      if ((error as { code?: unknown }).code === 'ENOENT') return null;
      throw unusable(this.#cacheDirectory, error);
    }
    try {
      const path = `/proc/self/fd/${fd}`;
      const { size } = fstatSync(fd);
      if (this.#checked.get(name) === stateOf(fd) || isWhole(readFileSync(fd))) {
        utimesSync(path, new Date(), new Date()); // used last now
        this.#checked.set(name, stateOf(fd));
        // The kernel reads these next. A primary that is cold has made it warn (ext4_check_map_extents_env).
        const ends = Buffer.alloc(PAGE);
        for (const offset of [0, size - PAGE]) readSync(fd, ends, 0, PAGE, Math.max(0, offset));
        return { path, bytes: size - SUM_BYTES, close: () => closeSync(fd) };
      }
    } catch {
      // Unreadable is like damaged: it is written again.
    }
    closeSync(fd);
    return null;
  }

  async #write(name: string, { tree, layerBytes }: TreeOf): Promise<void> {
    const image = await rewriteInThread({ tree: sharedBytes(tree()), layerBytes });
    try {
      const directory = this.#directory();
      try {
        const temporary = directory.at(`${name}.new`);
        rmSync(temporary, { force: true });
        const sum = createHash('sha256').update(image).digest();
        writeFileSync(temporary, Buffer.concat([image, sum]), { mode: 0o600, flag: 'wx' });
        renameSync(temporary, directory.at(name));
        this.#note(directory, name);
        this.#prune(directory);
      } finally {
        directory.close();
      }
    } catch (error) {
      throw unusable(this.#cacheDirectory, error);
    }
  }

  /** What was written just now need not be read back. */
  #note(directory: OwnDirectory, name: string): void {
    const fd = directory.open(name, constants.O_RDONLY);
    this.#checked.set(name, stateOf(fd));
    closeSync(fd);
  }

  /** The kernel keeps a removed file that it has mounted. */
  #prune(directory: OwnDirectory): void {
    const used = readdirSync(directory.at('.')).map((name) => {
      const path = directory.at(name);
      return { name, path, at: statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0 };
    });
    used.sort((a, b) => b.at - a.at);
    for (const { name, path } of used.slice(MAX_KEPT)) {
      rmSync(path, { force: true });
      this.#checked.delete(name);
    }
  }
}

function isWhole(bytes: Uint8Array): boolean {
  const image = bytes.subarray(0, Math.max(0, bytes.length - SUM_BYTES));
  return createHash('sha256').update(image).digest().equals(bytes.subarray(image.length));
}

/** Any write changes it: nothing can set a file's time of change. */
function stateOf(fd: number): string {
  const { ino, size, mtimeNs, ctimeNs } = fstatSync(fd, { bigint: true });
  return [ino, size, mtimeNs, ctimeNs].join(':');
}

function nameOf({ digest, layerBytes }: TreeOf): string {
  const sum = createHash('sha256')
    .update(JSON.stringify([digest, layerBytes]))
    .digest('hex');
  return `${sum}.${REWRITE_VERSION}`;
}

function sharedBytes(tree: Uint8Array): SharedArrayBuffer {
  if (tree.buffer instanceof SharedArrayBuffer && tree.byteLength === tree.buffer.byteLength) return tree.buffer;
  const shared = new SharedArrayBuffer(tree.length);
  new Uint8Array(shared).set(tree);
  return shared;
}

async function rewriteInThread(task: RewriteTask): Promise<Uint8Array> {
  const worker = new Worker(new URL('./rewrite-worker.js', import.meta.url), {
    workerData: task,
    name: 'rewrite',
    execArgv: [],
  });
  // Rejects with the thread's error.
  const [result] = (await once(worker, 'message')) as [RewriteResult];
  if ('image' in result) return result.image;
  throw new ClipError('BAD_FORMAT', `the kernel is not given this archive's tree: ${result.refused}`);
}

function unusable(cacheDirectory: string, cause: unknown): ClipError {
  if (cause instanceof ClipError) return cause;
  const { code } = cause as NodeJS.ErrnoException;
  return new ClipError('SYSTEM', `${cacheDirectory}/${DIRECTORY}: ${code ?? String(cause)}`, { cause });
}
