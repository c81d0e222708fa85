import { closeSync, constants, readdirSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { decodeSpanTable, type SpanColumns } from '../archive/index.js';
import { ClipError, Cursor } from '../bytes/index.js';
import { tryLock } from '../linux/index.js';
import { descriptorPath, OwnDirectory } from '../paths/index.js';
import { isTableOf, parseSpanFileName, TABLE_SUFFIX } from './span-file-name.js';

/**
 * Raised whenever the files in `spans/` change their meaning. A cache of another version is discarded (docs/architecture.md,
 * "Persisted state and what is only in memory").
 */
const CACHE_FORMAT = 'clip span cache 2';

export interface CacheOwner {
  readonly pid: number;
  /** What the owner calls itself: "clipd", "clipctl cache prune". */
  readonly name: string;
  /** A clipd's root: its control socket takes requests about the cache. */
  readonly root?: string;
}

/** Failures of the disk that pass, or that prevent only caching: the mount goes on without. */
export function isDiskTrouble(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return code === 'ENOSPC' || code === 'EDQUOT' || code === 'EIO' || code === 'EROFS';
}

/**
 * A cache directory that this process owns until `release`. Only `lock`, `version` and `spans/` in it are ever touched, so
 * that a directory named by mistake loses nothing.
 */
export class CacheDirectory {
  /** A path to the layer files, which leads by descriptor. */
  get spans(): string {
    return this.#spans === null ? join(this.path, 'spans') : descriptorPath(this.#spans.fd);
  }

  readonly #own: OwnDirectory;
  #spans: OwnDirectory | null = null;
  #writable = false;
  #discarded = false;
  #trouble: unknown = null;

  private constructor(
    own: OwnDirectory,
    readonly lock: number,
    readonly owner: CacheOwner,
  ) {
    this.#own = own;
  }

  get path(): string {
    return this.#own.path;
  }

  /**
   * Makes the directory if need be, takes its lock and checks its format. On a disk that takes no writes what an earlier run
   * left there is to be read, if there is any: then it is not `writable`.
   * @throws ClipError BUSY naming the owner; the disk's own error when `isDiskTrouble`; ClipError SYSTEM otherwise.
   */
  static open(path: string, name = 'clipd', root?: string): CacheDirectory {
    const owner: CacheOwner = { pid: process.pid, name, ...(root === undefined ? {} : { root }) };
    try {
      // Not O_TRUNC: until the lock is ours the text in it is the owner's.
      const directory = CacheDirectory.#locked(path, constants.O_RDWR | constants.O_CREAT, owner);
      try {
        directory.makeWritable();
        return directory;
      } catch (error) {
        directory.release();
        throw error;
      }
    } catch (cause) {
      if (cause instanceof ClipError) throw cause;
      if (!isDiskTrouble(cause)) throw unusable(path, cause);
      const readable = CacheDirectory.#asItLies(path, owner);
      if (readable === null) throw cause;
      readable.#trouble = cause;
      return readable;
    }
  }

  static #locked(path: string, flags: number, owner: CacheOwner): CacheDirectory {
    const own = OwnDirectory.open(resolve(path), { make: (flags & constants.O_CREAT) !== 0 });
    try {
      const lock = own.open('lock', flags);
      if (tryLock(lock)) return new CacheDirectory(own, lock, owner);
      closeSync(lock);
      throw busy(own.path);
    } catch (error) {
      own.close();
      throw error;
    }
  }

  static #asItLies(path: string, owner: CacheOwner): CacheDirectory | null {
    try {
      const directory = CacheDirectory.#locked(path, constants.O_RDONLY, owner);
      if (directory.#own.read('version')?.trim() === CACHE_FORMAT) {
        directory.#spans = directory.#own.directory('spans');
        return directory;
      }
      directory.release();
    } catch (error) {
      // No directory: there is nothing that an earlier run left.
      if (error instanceof ClipError && error.code !== 'NOT_FOUND') throw error;
    }
    return null;
  }

  /** False: the disk took no writes when it was opened, and no call of `makeWritable` has succeeded since. */
  get writable(): boolean {
    return this.#writable;
  }

  /** Why it was not. */
  get trouble(): unknown {
    return this.#trouble;
  }

  /** An unknown format was found and thrown away. */
  get discarded(): boolean {
    return this.#discarded;
  }

  /** Tries again what `open` could not do. The lock is ours all the while. @throws the disk's error */
  makeWritable(): void {
    if (this.#writable) return;
    const text = this.#own.open('lock', constants.O_RDWR | constants.O_TRUNC);
    try {
      writeSync(text, `${JSON.stringify(this.owner)}\n`, 0);
    } finally {
      closeSync(text);
    }
    this.#prepare();
    this.#writable = true;
  }

  /** Discards what another format left. */
  #prepare(): void {
    const own = this.#own;
    if (own.read('version')?.trim() !== CACHE_FORMAT) {
      this.#discarded = listDirectory(own.at('spans')).length > 0;
      rmSync(own.at('spans'), { recursive: true, force: true });
      own.replace('version', `${CACHE_FORMAT}\n`);
    }
    this.#spans ??= own.directory('spans');
  }

  /** The lock goes with its descriptor. The files stay: they are checked at their next use. */
  release(): void {
    closeSync(this.lock);
    this.#spans?.close();
    this.#own.close();
  }
}

/** Whose the directory is, as the lock file says; null when it says nothing. Does not tell whether the owner still lives. */
export function readOwner(path: string): CacheOwner | null {
  try {
    const owner = JSON.parse(readFileSync(join(path, 'lock'), 'utf8')) as Partial<CacheOwner>;
    if (typeof owner.pid !== 'number') return null;
    const { pid, name, root } = owner;
    return { pid, name: String(name ?? 'clipd'), ...(typeof root === 'string' ? { root } : {}) };
  } catch {
    return null;
  }
}

/**
 * The span table that lies beside a layer file; null when there is none, or another than the file's name says, and the
 * file's bytes cannot be judged.
 */
export function readTable(path: string): SpanColumns | null {
  try {
    const bytes = readFileSync(path + TABLE_SUFFIX);
    return isTableOf(path, bytes) ? decodeSpanTable(new Cursor(bytes, path + TABLE_SUFFIX)) : null;
  } catch {
    return null;
  }
}

export function listDirectory(path: string): string[] {
  try {
    return readdirSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

function busy(path: string): ClipError {
  const owner = readOwner(path);
  const who = owner === null ? 'another process' : `${owner.name} (pid ${owner.pid})`;
  return new ClipError('BUSY', `cache directory ${path} is in use by ${who}`, {
    hint: 'give this one its own with --cache-dir, or use the running clipd (same --root)',
  });
}

function unusable(path: string, cause: unknown): ClipError {
  const code = (cause as NodeJS.ErrnoException).code;
  const permission = code === 'EACCES' || code === 'EPERM';
  return new ClipError(permission ? 'PERMISSION' : 'SYSTEM', `cache directory ${path}: ${code ?? String(cause)}`, {
    hint: 'choose another with --cache-dir or CLIP_CACHE_DIR',
    cause,
  });
}

/** The layer files of a cache directory, by name. */
export function spanFiles(spans: string): string[] {
  return listDirectory(spans).filter((name) => parseSpanFileName(name) !== null);
}
