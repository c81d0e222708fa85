import { createHash, randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { ClipError, FormatError } from '../bytes/index.js';
import { readArchiveImage } from '../check/index.js';
import { tryLock } from '../linux/index.js';
import { OwnDirectory } from '../paths/index.js';

/*
 * Archives that clip made or fetched by itself: CACHE/archives. An archive is named by the digest of the image's manifest, which is of
 * one platform, and by the repository that it was asked for in: whoever may push there decides on the archive and serves its layers,
 * and nobody else does (docs/security.md, "Archives"). One that was pinned by its digest is kept apart. A reference, as it was resolved last, is a small file in refs/.
 */

/**
 * All archives together, unless the user says otherwise. An archive takes 0.5 to 1 % of its compressed image: 2 GB are the
 * archives of some 200 to 400 GB of images.
 */
const DEFAULT_ARCHIVES_BYTES = 2e9;

const ARCHIVE = /^(sha256|sha512)-([0-9a-f]{64}|[0-9a-f]{128})(?:@[0-9a-f]{64})?\.clip$/;
const DIGEST = /^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;
const REFERENCE = /^[0-9a-f]{64}\.json$/;

/** An image as it is asked for, or an object in S3. */
export interface ArchiveKey {
  /** Of an object: of its URL and version. */
  readonly manifestDigest: string;
  /** "host[:port]"; empty for an image layout; null for an object, whose image may be anywhere. */
  readonly registry: string | null;
  /** Of an image layout: its path. Of an object: its URL. */
  readonly repository: string;
  /** The digest that the archive must have, if only that one will do. */
  readonly pinned?: string | undefined;
}

export interface StoredArchive {
  readonly path: string;
  readonly manifestDigest: string;
  /** Bytes of the archive. */
  readonly size: number;
  /** ISO 8601. */
  readonly lastUse: string;
}

export interface ListedArchive extends StoredArchive {
  /** As it was first called; "" when the archive is damaged. */
  readonly reference: string;
  /** "linux/amd64" */
  readonly platform: string;
}

/** What a reference stood for when it was looked up last. */
export interface KnownReference {
  /** With every default filled in. */
  readonly canonical: string;
  readonly platform: string;
  readonly manifestDigest: string;
  /** Milliseconds since 1970. */
  readonly resolvedAt: number;
}

function isKnownReference(value: unknown): value is KnownReference {
  const known = value as Partial<KnownReference> | null;
  return (
    typeof known === 'object' &&
    known !== null &&
    typeof known.canonical === 'string' &&
    typeof known.platform === 'string' &&
    typeof known.manifestDigest === 'string' &&
    DIGEST.test(known.manifestDigest) &&
    typeof known.resolvedAt === 'number'
  );
}

/** Where the indexes of layers are kept in a cache directory. clipd keeps those of layers that version 1 archives have there, too. */
export function layerIndexesOf(cacheDir: string): string {
  return join(cacheDir, 'layers');
}

function nameOf({ manifestDigest, registry, repository, pinned = '' }: ArchiveKey): string {
  const asked = createHash('sha256').update([registry, repository, pinned].join('\0')).digest('hex');
  return `${manifestDigest.replace(':', '-')}@${asked}.clip`;
}

/** Refuses a directory that others may write to, or that another user's link leads to: what lies in it is used as it is. */
function openOwn(path: string, make: boolean): void {
  try {
    OwnDirectory.open(resolve(path), { make }).close();
  } catch (error) {
    // Nothing is stored yet.
    if (!make && error instanceof ClipError && error.code === 'NOT_FOUND') return;
    throw error;
  }
}

/** The lock of what is being made is looked at this often. */
const LOCK_POLL_MS = 50;

/** The archives of one cache directory. Several processes may use it at the same time. */
export class ArchiveStore {
  readonly #directory: string;
  readonly #references: string;

  constructor(cacheDir: string) {
    this.#directory = join(cacheDir, 'archives');
    this.#references = join(this.#directory, 'refs');
  }

  /** @param make false: it need not be there */
  #open(make = false): void {
    openOwn(dirname(this.#directory), make);
    openOwn(this.#directory, make);
    openOwn(this.#references, make);
  }

  /** The archive of an image, now the last used; null when there is none, or one that is damaged or of another version of clip. */
  find(key: ArchiveKey): StoredArchive | null {
    this.#open();
    const { manifestDigest, registry, repository } = key;
    const path = join(this.#directory, nameOf(key));
    const stat = statSync(path, { throwIfNoEntry: false });
    if (!stat?.isFile()) return null;
    try {
      const image = readArchiveImage(path);
      if (registry !== null && (image.registry !== registry || image.repository !== repository)) return null;
    } catch (error) {
      if (error instanceof FormatError) return null;
      throw error;
    }
    const now = new Date();
    try {
      utimesSync(path, now, stat.mtime);
    } catch {
      // a disk that takes no writes: its order of use stays as it was
    }
    return { path, manifestDigest, size: stat.size, lastUse: now.toISOString() };
  }

  #referencePath(canonical: string, platform: string): string {
    const hex = createHash('sha256').update(`${canonical}\n${platform}`).digest('hex');
    return join(this.#references, `${hex}.json`);
  }

  /** What a reference stood for when it was last looked up; null when it never was. */
  recall(canonical: string, platform: string): KnownReference | null {
    this.#open();
    const known = readReference(this.#referencePath(canonical, platform));
    return known?.canonical === canonical && known.platform === platform ? known : null;
  }

  remember(known: KnownReference): void {
    this.#open(true);
    const path = this.#referencePath(known.canonical, known.platform);
    const temporary = `${path}.${randomBytes(4).toString('hex')}.new`;
    writeFileSync(temporary, `${JSON.stringify(known)}\n`, { mode: 0o600, flag: 'wx' });
    renameSync(temporary, path);
  }

  /**
   * The archive of an image, made by `make` if there is none. One process makes it, and others that want it wait.
   * @param make writes the archive to a path, which then is the store's
   */
  async findOrMake(
    key: ArchiveKey,
    make: (path: string) => Promise<void>,
    options: { maxBytes?: number; signal?: AbortSignal | undefined } = {},
  ): Promise<StoredArchive> {
    this.#open(true);
    const lockPath = join(this.#directory, `.${nameOf(key)}.lock`);
    const lock = openSync(lockPath, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    try {
      while (!tryLock(lock)) {
        options.signal?.throwIfAborted();
        await new Promise((resolve) => setTimeout(resolve, LOCK_POLL_MS));
      }
      const found = this.find(key);
      if (found !== null) return found;
      const path = join(this.#directory, nameOf(key));
      await make(path);
      this.prune(options.maxBytes ?? DEFAULT_ARCHIVES_BYTES, path);
      const { size, atime } = statSync(path);
      return { path, manifestDigest: key.manifestDigest, size, lastUse: atime.toISOString() };
    } finally {
      // A process that waits for it has it open, finds the archive when it is its turn, and leaves.
      rmSync(lockPath, { force: true });
      closeSync(lock);
    }
  }

  #stored(): StoredArchive[] {
    this.#open();
    const archives: StoredArchive[] = [];
    for (const name of namesIn(this.#directory)) {
      const match = ARCHIVE.exec(name);
      if (match === null) continue;
      const path = join(this.#directory, name);
      const stat = statSync(path, { throwIfNoEntry: false });
      if (stat === undefined) continue;
      archives.push({
        path,
        manifestDigest: `${match[1]}:${match[2]}`,
        size: stat.size,
        lastUse: stat.atime.toISOString(),
      });
    }
    return archives.sort((a, b) => (a.lastUse < b.lastUse ? 1 : -1));
  }

  /** All archives, the last used first. */
  list(): ListedArchive[] {
    return this.#stored().map((archive) => {
      try {
        const { reference, platform } = readArchiveImage(archive.path);
        return { ...archive, reference, platform: `${platform.os}/${platform.architecture}` };
      } catch {
        return { ...archive, reference: '', platform: '' };
      }
    });
  }

  /** Removes the archives of a manifest and the references to it. Mounts of them go on. @returns false when there are none */
  remove(manifestDigest: string): boolean {
    const archives = this.#stored().filter((archive) => archive.manifestDigest === manifestDigest);
    for (const { path } of archives) rmSync(path, { force: true });
    this.#forget(new Set([manifestDigest]));
    return archives.length > 0;
  }

  /**
   * Removes the longest unused archives until the rest takes at most `maxBytes`.
   * @param keep a path that stays
   * @returns bytes freed
   */
  prune(maxBytes: number, keep = ''): number {
    let used = 0;
    let freed = 0;
    const gone = new Set<string>();
    for (const { path, size, manifestDigest } of this.#stored()) {
      if (path === keep || used + size <= maxBytes) {
        used += size;
        continue;
      }
      rmSync(path, { force: true });
      gone.add(manifestDigest);
      freed += size;
    }
    if (gone.size > 0) this.#forget(gone);
    return freed;
  }

  #forget(manifestDigests: ReadonlySet<string>): void {
    for (const name of namesIn(this.#references)) {
      const path = join(this.#references, name);
      if (!REFERENCE.test(name)) continue;
      const known = readReference(path);
      if (known === null || manifestDigests.has(known.manifestDigest)) rmSync(path, { force: true });
    }
  }
}

function readReference(path: string): KnownReference | null {
  try {
    const value: unknown = JSON.parse(readFileSync(path, 'utf8'));
    return isKnownReference(value) ? value : null;
  } catch {
    return null; // never written, or cut by a crash
  }
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
