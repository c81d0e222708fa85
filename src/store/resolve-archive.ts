import { ClipError } from '../bytes/index.js';
import type { LayerProgress } from '../index/index.js';
// Not all of oci/, which an image whose archive is stored has no use for: only what reads a reference.
import {
  type Credentials,
  formatPlatform,
  hostPlatform,
  type ImageSource,
  type KeptLayers,
  type Platform,
  parsePlatform,
  parseReference,
  type RegistryCredentialProvider,
  type ResolvedImage,
  type ResolveOptions,
  type SourceOptions,
} from '../oci/index.js';
import type { S3Place } from '../s3/index.js';
import { type ArchiveKey, ArchiveStore, layerIndexesOf } from './archive-store.js';

/** When the registry is asked what a tag stands for, as in docker. */
export type PullPolicy = 'always' | 'missing' | 'never';

export interface ResolveArchiveOptions {
  /** An archive that the user has, or `s3://BUCKET/KEY`. */
  readonly clip?: string | undefined;
  /** Of an `s3://` archive whose URL does not say it. */
  readonly s3?: S3Place | undefined;
  /** An image in a registry, or oci:DIR[:TAG]. */
  readonly image?: string | undefined;
  readonly cacheDir: string;
  /** Default "missing" for images, "always" for `s3://`. */
  readonly pull?: PullPolicy | undefined;
  /** Of an archive that is fetched from the registry: the only one that will do. */
  readonly archiveDigest?: string | undefined;
  /** A further registry or repository that may have the archive: "HOST/NAME", or "HOST" for the image's repository there. */
  readonly indexSource?: string | undefined;
  /** "linux/arm64"; default the host's. */
  readonly platform?: string | undefined;
  readonly credentials?: Credentials | RegistryCredentialProvider | null | undefined;
  readonly plainHttp?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: LayerProgress) => void) | undefined;
  /** Gets the layers that an index build reads from a registry. */
  readonly kept?: KeptLayers | undefined;
  /** Bytes of an archive in S3 or in a registry, and all of it. */
  readonly onFetched?: ((done: number, total: number) => void) | undefined;
  readonly onWarning?: ((warning: string) => void) | undefined;
  /** What the user should know: an old answer was used because there is no new one. */
  readonly onNote?: ((note: string) => void) | undefined;
}

export interface ResolvedArchive {
  readonly path: string;
  /** Where it came from. */
  readonly origin: 'file' | 'store' | 'registry' | 's3' | 'indexed';
}

/** The reference itself says which manifest it means: nothing has to be asked. */
const pinned = (digest: string | null): boolean => digest !== null;

/**
 * The one way from what a user names to an archive: a file, or an image, whose archive is in the store or is made now. A tag is
 * resolved once per call.
 * @throws ClipError USAGE when neither or both are named; NOT_FOUND with `pull: 'never'`; what indexing throws
 */
export async function resolveArchive(options: ResolveArchiveOptions): Promise<ResolvedArchive> {
  const { clip, image } = options;
  if ((clip === undefined) === (image === undefined)) {
    throw new ClipError('USAGE', 'an archive or an image is needed, and one of them only', {
      hint: 'name a file or an image: --clip FILE or --image REF',
    });
  }
  if (clip !== undefined) return clip.startsWith('s3://') ? fromS3(clip, options) : { path: clip, origin: 'file' };
  const reference = parseReference(image!);
  const asked = options.platform === undefined ? undefined : parsePlatform(options.platform);
  const platform = asked ?? hostPlatform();
  const platformText = formatPlatform(platform);
  const store = new ArchiveStore(options.cacheDir);
  const { pull = 'missing' } = options;
  const known = store.recall(reference.canonical, platformText);
  const keyOf = (manifestDigest: string): ArchiveKey => {
    const registry = reference.kind === 'registry' ? reference.registry : '';
    return { manifestDigest, registry, repository: reference.repository, pinned: options.archiveDigest };
  };
  const stored = known === null ? null : store.find(keyOf(known.manifestDigest));
  // A layout on this disk is asked each time: that costs nothing, and it may have been written anew.
  const ask = pull === 'always' || (reference.kind === 'layout' && !pinned(reference.digest));
  if (stored !== null && (pull === 'never' || !ask || pinned(reference.digest))) {
    return { path: stored.path, origin: 'store' };
  }
  if (pull === 'never') {
    throw new ClipError('NOT_FOUND', `no archive of ${reference.canonical} for ${platformText} is stored`, {
      hint: 'clipctl archives ls lists those that are; leave --pull never out to make one',
    });
  }

  const sourceOptions: SourceOptions = {
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
    ...(options.plainHttp === undefined ? {} : { plainHttp: options.plainHttp }),
  };
  const { openImageSource } = await import('../oci/index.js');
  const source = openImageSource(image!, sourceOptions);
  try {
    let resolved: ResolvedImage;
    try {
      resolved = await resolve(source, asked, options);
    } catch (error) {
      const unreachable = error instanceof ClipError && error.code === 'NETWORK';
      if (stored === null || known === null || !unreachable) throw error;
      const when = new Date(known.resolvedAt).toISOString();
      options.onNote?.(`${error.message}: going on with ${reference.canonical} as it was at ${when}`);
      return { path: stored.path, origin: 'store' };
    }
    const { manifestDigest } = resolved;
    const key = keyOf(manifestDigest);
    const ready = store.find(key);
    const found =
      ready === null
        ? await findOrIndex(store, key, { source, sourceOptions, resolved, asked, name: reference.canonical }, options)
        : ({ path: ready.path, origin: 'store' } as const);
    const { canonical } = reference;
    store.remember({ canonical, platform: platformText, manifestDigest, resolvedAt: Date.now() });
    return found;
  } finally {
    await source.close();
  }
}

interface Wanted {
  readonly source: ImageSource;
  readonly sourceOptions: SourceOptions;
  readonly resolved: ResolvedImage;
  readonly asked: Platform | undefined;
  readonly name: string;
}

/** An archive that the store has not: from a registry, else made now. */
async function findOrIndex(
  store: ArchiveStore,
  key: ArchiveKey,
  { source, sourceOptions, resolved, asked, name }: Wanted,
  options: ResolveArchiveOptions,
): Promise<ResolvedArchive> {
  const { archiveDigest: pinned, indexSource, signal, onNote, onFetched } = options;
  const { originReference } = await import('../oci/index.js');
  let fromRegistry = false;
  /** What a registry has spares an index build; without it, or if it is damaged, one is made. */
  const fetched = async (path: string): Promise<boolean> => {
    try {
      const { findRemoteArchive } = await import('./remote-archive.js');
      const find = { source: sourceOptions, indexSource, pinned, signal, onNote, onFetched };
      fromRegistry = await findRemoteArchive(resolved, path, await source.artifacts(), find);
    } catch (error) {
      if (pinned !== undefined || signal?.aborted) throw error;
      onNote?.(`${(error as Error).message}: the image is indexed now`);
    }
    if (pinned !== undefined && !fromRegistry) {
      throw new ClipError('NOT_FOUND', `the registry has no archive ${pinned} of ${name}`, {
        hint: 'look at the digest, or leave --index-digest out',
      });
    }
    return fromRegistry;
  };
  const made = await store.findOrMake(
    key,
    async (path) => {
      if (await fetched(path)) return;
      const { indexImage } = await import('../index/index.js');
      await indexImage(
        {
          // By digest: what is indexed is what was resolved, whatever the tag means by now.
          imageRef: originReference(resolved),
          outputPath: path,
          platform: asked,
          ...sourceOptions,
          layerIndexDirectory: layerIndexesOf(options.cacheDir),
          registryLayerIndexes: true,
          signal,
          onProgress: options.onProgress,
          onWarning: options.onWarning,
        },
        { reference: name, kept: source.remote ? options.kept : undefined },
      );
    },
    { signal },
  );
  return { path: made.path, origin: fromRegistry ? 'registry' : 'indexed' };
}

async function fromS3(url: string, options: ResolveArchiveOptions): Promise<ResolvedArchive> {
  const { cacheDir, pull, archiveDigest: pinned, signal, onNote, onFetched } = options;
  const { fetchS3Archive } = await import('./s3-archive.js');
  const store = new ArchiveStore(cacheDir);
  return fetchS3Archive(url, store, { ...options.s3, pull, pinned, signal, onNote, onProgress: onFetched });
}

/** The image's config comes with its archive, if the registry has one. */
async function resolve(
  source: ImageSource,
  platform: Platform | undefined,
  { signal, onWarning }: ResolveArchiveOptions,
): Promise<ResolvedImage> {
  const artifacts = await source.artifacts();
  // What fails here fails again when the archive is looked for, and is told then.
  const configOf: ResolveOptions['configOf'] = async (manifestDigest, config) =>
    (await artifacts?.configOf(manifestDigest, config, signal).catch(() => null)) ?? null;
  return source.resolve({ platform, signal, onWarning, configOf });
}
