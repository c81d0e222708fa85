import { anyFunction, checked, oneOf, optionsOf, string } from '../bytes/index.js';
import type { S3Credentials } from '../s3/index.js';
import { defaultCacheDir, resolveDirectory } from '../wire/index.js';

export interface FetchArchiveOptions {
  /** The archive is kept in `archives/` of this directory. Default: clipd's. */
  readonly cachePath?: string | undefined;
  /** Where S3 is, if the URL does not say it. */
  readonly endpoint?: string | undefined;
  readonly region?: string | undefined;
  /** null: unsigned requests. Default: what the AWS SDK finds. */
  readonly credentials?: S3Credentials | null | undefined;
  /** When to ask S3 whether the object has changed: each time (the default); if it is not stored; never. */
  readonly pull?: 'always' | 'missing' | 'never' | undefined;
  /** "sha256:…": the archive must have this digest. */
  readonly digest?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
  /** Called when S3 cannot be reached and the archive of the last time is used. */
  readonly onNote?: ((note: string) => void) | undefined;
}

const check = optionsOf(
  {},
  {
    cachePath: string,
    endpoint: string,
    region: string,
    credentials: checked<S3Credentials | null>(
      '{ accessKeyId, secretAccessKey } or null',
      (value) => value === null || typeof (value as Partial<S3Credentials>).accessKeyId === 'string',
    ),
    pull: oneOf('always', 'missing', 'never'),
    digest: string,
    signal: checked<AbortSignal>('an AbortSignal', (value) => value instanceof AbortSignal),
    onProgress: anyFunction,
    onNote: anyFunction,
  },
);

/**
 * Fetches the archive at `s3://BUCKET/KEY[?endpoint=URL&region=R]` into the archive store, unless the object is stored already and has not
 * changed.
 * @returns the path of the archive, for mountArchive, inspectArchive and the others
 * @throws ClipError NOT_FOUND, UNAUTHORIZED, NETWORK, BAD_FORMAT, DIGEST_MISMATCH
 */
export async function fetchArchive(url: string, options: FetchArchiveOptions = {}): Promise<string> {
  check(options, 'fetchArchive: options');
  const { ArchiveStore, fetchS3Archive } = await import('../store/index.js');
  const { cachePath, digest: pinned, ...rest } = options;
  const store = new ArchiveStore(cachePath === undefined ? defaultCacheDir() : resolveDirectory(cachePath));
  return (await fetchS3Archive(url, store, { ...rest, pinned })).path;
}
