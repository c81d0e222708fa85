import { AbortError, anyFunction, boolean, ClipError, checked, oneOf, optionsOf, string } from '../bytes/index.js';
import { CachedSpans } from '../cache/index.js';
import {
  ArchiveFile,
  type OpenedSource,
  openStorage,
  type StorageOverride,
  type VerifyProgress,
  type VerifyResult,
  verifyArchive as verifySpans,
} from '../check/index.js';
import { type Credentials, credentialsOption, type RegistryCredentialProvider } from '../oci/index.js';
import type { S3Credentials } from '../s3/index.js';

/** How the layers of an archive are reached. */
export interface SourceAccess {
  /** null: anonymous. Default: the order of docs/cli.md, "Logins"; for S3 its environment. */
  readonly credentials?: Credentials | S3Credentials | RegistryCredentialProvider | null | undefined;
  readonly plainHttp?: boolean | undefined;
  /** Where the data is, if not where the archive says. */
  readonly storageInfo?: StorageOverride | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface VerifyOptions extends SourceAccess {
  /** "registry": every span of every layer. "cache": those in `cachePath`. Default "registry". */
  readonly from?: 'registry' | 'cache' | undefined;
  /** A span cache that no clipd writes to meanwhile. */
  readonly cachePath?: string | undefined;
  readonly onProgress?: ((progress: VerifyProgress) => void) | undefined;
}

const isS3 = (value: unknown): value is S3Credentials =>
  typeof value === 'object' && value !== null && 'accessKeyId' in value && 'secretAccessKey' in value;

export const accessChecks = {
  credentials: (value: unknown, where: string) => (isS3(value) ? value : credentialsOption(value, where)),
  plainHttp: boolean,
  storageInfo: (value: unknown) => value, // checked against the archive's storage
  signal: checked<AbortSignal>('an AbortSignal', (value) => value instanceof AbortSignal),
};

/**
 * Opens where the layers of an open archive are; nothing is fetched yet.
 * @throws ClipError UNSUPPORTED for an archive of version 1 whose layers are not indexed
 */
export async function openSource(file: ArchiveFile, options: SourceAccess): Promise<OpenedSource> {
  const { credentials, plainHttp, storageInfo } = options;
  if (file.archive.unindexed.length > 0) {
    throw new ClipError('UNSUPPORTED', `${file.path} is an archive of version 1 whose layers are not indexed`, {
      hint: 'mount it, which indexes them, or make it anew with convertArchive() or clipctl convert',
    });
  }
  const access = isS3(credentials) ? { s3: credentials, plainHttp } : { credentials, plainHttp };
  return openStorage(file.archive, file.fd, credentials === null ? { ...access, s3: null } : access, storageInfo);
}

/** Runs `work`; what it throws after an abort is an AbortError. */
export async function abortable<T>(what: string, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
  if (signal?.aborted) throw new AbortError(what, signal);
  try {
    return await work();
  } catch (error) {
    if (signal?.aborted) throw new AbortError(what, signal);
    throw error;
  }
}

const check = optionsOf(
  {},
  { ...accessChecks, from: oneOf('registry', 'cache'), cachePath: string, onProgress: anyFunction },
);

/**
 * Reads every span of every layer and checks it as a mount would, and with recorded hashes every file's content too. Goes on after a bad
 * one: `problems` has one line for each.
 * @throws ClipError when the layers cannot be reached at all; AbortError
 */
export async function verifyArchive(archivePath: string, options: VerifyOptions = {}): Promise<VerifyResult> {
  check(options, 'verifyArchive: options');
  const { from = 'registry', cachePath, signal, onProgress } = options;
  if (from === 'cache' && cachePath === undefined) {
    throw new ClipError('USAGE', "verifyArchive: options.cachePath is missing: from 'cache' needs it");
  }
  const file = ArchiveFile.open(archivePath);
  try {
    const { archive } = file;
    const layers = archive.layers.map(({ table }, i) => ({ digest: archive.image.layers[i]!.digest, table }));
    const source = from === 'cache' ? new CachedSpans(cachePath!, layers) : await openSource(file, options);
    try {
      const watch = { ...(signal ? { signal } : {}), ...(onProgress ? { onProgress } : {}) };
      return await abortable(`verifying ${archivePath}`, signal, () => verifySpans(archive, source, watch));
    } finally {
      await source.close();
    }
  } finally {
    file.close();
  }
}
