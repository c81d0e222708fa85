import { anyFunction, boolean, type Check, ClipError, optionsOf, string } from '../bytes/index.js';
import type { ContentCache } from '../cache/index.js';
import type { StorageOverride } from '../check/index.js';
import { type Credentials, credentialsOption, type RegistryCredentialProvider } from '../oci/index.js';
import type { S3Credentials } from '../s3/index.js';
import { cacheSize, imageOptionChecks, type RecentWarning, storageOverride } from '../wire/index.js';
import type { DroppedReads, ReadEvent } from './read-trace.js';

export interface MountArchiveOptions {
  /** A .clip file, or `s3://BUCKET/KEY[?endpoint=URL&region=R]`. */
  readonly archivePath: string;
  /** An existing directory. */
  readonly mountPoint: string;
  /** Where spans are cached. Default: a directory of this process's own, removed when its last mount ends. */
  readonly cachePath?: string | undefined;
  /** Cap of the cache in bytes; default the smaller of 20 GB and 20 % of the disk. */
  readonly cacheSize?: number | undefined;
  /**
   * For the registry, or for S3 where an old archive's data is there; null: anonymous. Default: the Docker config of this
   * process's user; for S3 its environment, else what the SDK finds.
   */
  readonly credentials?: Credentials | S3Credentials | RegistryCredentialProvider | null | undefined;
  /** Where the data is, if not where the archive says. */
  readonly storageInfo?: StorageOverride | undefined;
  /** Talk HTTP to a registry that is not on this machine. */
  readonly plainHttp?: boolean | undefined;
  /** Default true. False: a read fetches the spans it touches and nothing else. */
  readonly readahead?: boolean | undefined;
  /** Fetch by a profile, the archive's or of earlier starts. Default true. */
  readonly prefetch?: boolean | undefined;
  /** Fetch the rest of the image while readers are quiet. Default false. */
  readonly fill?: boolean | undefined;
  /** Check each cached span before each read that it answers. Default false: spans are checked again every ten minutes of use. */
  readonly paranoid?: boolean | undefined;
  /**
   * Which file system answers: "kernel" (its own EROFS: root, Linux ≥ 6.12), "fuse", or "auto": the kernel where it can. Default "fuse".
   */
  readonly plane?: 'kernel' | 'fuse' | 'auto' | undefined;
  /**
   * A cache shared with other machines: redis://…, s3://bucket/prefix, dir:/path, unix:/socket, or an object of your own. An
   * object is asked over a socket, because the engine is another process: while this process is blocked (by a synchronous
   * read of the mount, say) it cannot answer, and the registry is asked instead.
   */
  readonly contentCache?: string | ContentCache | undefined;
  /** Publish in the content cache what starts read, and fetch by what other machines published. Default true. */
  readonly profileSharing?: boolean | undefined;
  /** Seconds after which a read that gets no bytes ends with EIO. Default 300. */
  readonly readTimeout?: number | undefined;
  /**
   * Called for each warning of the engine: why a read ended with EIO, what it does without. Mounts with the same cache directory share an
   * engine and its warnings.
   */
  readonly onWarning?: ((warning: RecentWarning) => void) | undefined;
  /**
   * Called for each read that had to wait because its bytes were not in the span cache. Reads that the kernel or the span cache
   * answer are not told.
   */
  readonly onRead?: ((read: ReadEvent | DroppedReads) => void) | undefined;
  /** Honour set-uid bits, device nodes. Default false. */
  readonly suid?: boolean | undefined;
  readonly dev?: boolean | undefined;
}

const anyCredentials: Check<MountArchiveOptions['credentials']> = (value, where) => {
  const { accessKeyId, secretAccessKey } = Object(value) as Record<string, unknown>;
  if (typeof accessKeyId === 'string' && typeof secretAccessKey === 'string') return value as S3Credentials;
  return credentialsOption(value, where);
};

/** Here it is called storageInfo. */
const { storage: _, ...imageOptions } = imageOptionChecks;

const checkFields = optionsOf(
  { archivePath: string, mountPoint: string },
  {
    ...imageOptions,
    contentCache: (value) => value, // checked below
    profileSharing: boolean,
    storageInfo: storageOverride,
    cachePath: string,
    cacheSize,
    credentials: anyCredentials,
    onWarning: anyFunction,
    onRead: anyFunction,
    suid: boolean,
    dev: boolean,
  },
);

function checkContentCache(cache: string | ContentCache | undefined): void {
  if (cache === undefined || typeof cache === 'string') return;
  for (const method of ['getContent', 'storeContent'] as const) {
    if (typeof cache?.[method] === 'function') continue;
    throw new ClipError('USAGE', `contentCache has no ${method}()`, {
      hint: 'give a URL such as redis://HOST:PORT, or an object with getContent() and storeContent()',
    });
  }
}

/** @throws ClipError USAGE naming the option, what was expected and what was found */
export function checkMountOptions(options: MountArchiveOptions): void {
  checkFields(options, 'mountArchive: options');
  checkContentCache(options.contentCache);
}
