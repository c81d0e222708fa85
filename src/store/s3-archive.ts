import { createHash } from 'node:crypto';
import { rmSync } from 'node:fs';
import { open, rename } from 'node:fs/promises';
import type { S3Location } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { readArchiveImage } from '../check/index.js';
import { MAX_ARCHIVE_BYTES } from '../oci/index.js';
import { parseS3Url, type S3Credentials, type S3Place, S3Source, s3Name, sha256OfFile } from '../s3/index.js';
import type { ArchiveKey, ArchiveStore } from './archive-store.js';

export interface S3ArchiveOptions extends S3Place {
  /** Default: what the AWS SDK finds. */
  readonly credentials?: S3Credentials | null | undefined;
  /** "always", the default, asks S3 whether the object is still the one that is stored. */
  readonly pull?: 'always' | 'missing' | 'never' | undefined;
  /** The digest that the archive must have. */
  readonly pinned?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
  readonly onNote?: ((note: string) => void) | undefined;
}

/** Ranges of this size are fetched side by side, and each is resumed where it breaks. */
const PIECE_BYTES = 8 * 1024 * 1024;
const PARALLEL_PIECES = 4;
/** An object that is replaced meanwhile is begun anew. */
const TRIES = 3;
/** In the store's list of references, where an image has its platform. */
const NO_PLATFORM = 's3';

/** What an object is called in the store's list of references. */
export function s3StoreKey({ bucket, key, endpoint }: S3Location): { canonical: string; platform: string } {
  const canonical = `s3://${bucket}/${key}${endpoint === '' ? '' : `?endpoint=${endpoint}`}`;
  return { canonical, platform: NO_PLATFORM };
}

/** Another version of the object is another archive. */
function keyOf(canonical: string, versionDigest: string): ArchiveKey {
  return { manifestDigest: versionDigest, registry: null, repository: canonical };
}

function digestOfVersion(canonical: string, version: string): string {
  return `sha256:${createHash('sha256').update(`${canonical}\n${version}`).digest('hex')}`;
}

/**
 * The archive at `s3://…`, out of the store or fetched into it. S3 is asked each time (one request) whether the object has changed.
 * @throws ClipError NOT_FOUND, UNAUTHORIZED, NETWORK, LIMIT, DIGEST_MISMATCH; BAD_FORMAT for an object that is no archive
 */
export async function fetchS3Archive(
  url: string,
  store: ArchiveStore,
  options: S3ArchiveOptions,
): Promise<{ path: string; origin: 'store' | 's3' }> {
  const { pull = 'always', pinned, signal } = options;
  const location = parseS3Url(url, options);
  const key = s3StoreKey(location);
  const known = store.recall(key.canonical, key.platform);
  const stored = known === null ? null : store.find(keyOf(key.canonical, known.manifestDigest));
  const use = async (path: string, origin: 'store' | 's3') => {
    await checkPin(path, s3Name(location), pinned);
    return { path, origin };
  };
  if (stored !== null && pull !== 'always') return use(stored.path, 'store');
  if (pull === 'never') {
    throw new ClipError('NOT_FOUND', `${s3Name(location)} is not stored`, { hint: 'leave --pull never out' });
  }
  for (let tries = 1; ; tries++) {
    const source = new S3Source(location, options.credentials);
    try {
      const { size, version } = await source.look(signal);
      const digest = digestOfVersion(key.canonical, version);
      let fetched = false;
      const made = await store.findOrMake(
        keyOf(key.canonical, digest),
        async (path) => {
          await download(source, location, size, path, options);
          fetched = true;
        },
        { signal },
      );
      store.remember({ ...key, manifestDigest: digest, resolvedAt: Date.now() });
      return await use(made.path, fetched ? 's3' : 'store');
    } catch (error) {
      if (error instanceof ClipError && error.code === 'CONFLICT' && tries < TRIES) continue;
      const unreachable = error instanceof ClipError && error.code === 'NETWORK';
      if (stored === null || known === null || !unreachable) throw error;
      options.onNote?.(`${error.message}: going on with it as it was at ${new Date(known.resolvedAt).toISOString()}`);
      return await use(stored.path, 'store');
    } finally {
      await source.close();
    }
  }
}

async function download(
  source: S3Source,
  location: S3Location,
  size: number,
  path: string,
  { signal, onProgress }: S3ArchiveOptions,
): Promise<void> {
  if (size > MAX_ARCHIVE_BYTES) {
    throw new ClipError(
      'LIMIT',
      `${s3Name(location)} has ${size} bytes; clip fetches archives of up to ${MAX_ARCHIVE_BYTES}`,
      {
        hint: 'an archive that holds its data is mounted by its .rclip: clipctl store writes one',
      },
    );
  }
  const temporary = `${path}.fetch`;
  try {
    const out = await open(temporary, 'w', 0o600);
    try {
      let next = 0;
      let done = 0;
      const work = async (): Promise<void> => {
        while (next < size) {
          const start = next;
          next += PIECE_BYTES;
          const bytes = new Uint8Array(Math.min(PIECE_BYTES, size - start));
          await source.fetchInto('', start, bytes, { signal });
          for (let at = 0; at < bytes.length; ) {
            at += (await out.write(bytes, at, bytes.length - at, start + at)).bytesWritten;
          }
          done += bytes.length;
          onProgress?.(done, size);
        }
      };
      await Promise.all(Array.from({ length: PARALLEL_PIECES }, work));
      await out.datasync();
    } finally {
      await out.close();
    }
    try {
      readArchiveImage(temporary);
    } catch (cause) {
      const { message } = cause as Error;
      throw new ClipError('BAD_FORMAT', `${s3Name(location)} is no archive: ${message.replace(`${temporary}: `, '')}`, {
        cause,
      });
    }
    await rename(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

async function checkPin(path: string, name: string, pinned: string | undefined): Promise<void> {
  if (pinned === undefined) return;
  const found = `sha256:${await sha256OfFile(path)}`;
  if (found === pinned) return;
  throw new ClipError('DIGEST_MISMATCH', `${name} is the archive ${found}, not ${pinned}`, {
    hint: 'look at the digest, or leave --index-digest out',
  });
}
