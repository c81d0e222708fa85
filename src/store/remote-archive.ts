import { isDeepStrictEqual } from 'node:util';
import { type ArchiveInput, type ImageMeta, readImageMeta, relocateArchive } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import type { ImageArtifacts, ResolvedImage, SourceOptions } from '../oci/index.js';

export interface FindRemoteOptions {
  /** A further place to look: "HOST/NAME", or "HOST" for the image's repository there. */
  readonly indexSource?: string | undefined;
  /** How the image's registry is reached. */
  readonly source?: SourceOptions | undefined;
  /** The digest that the archive must have. */
  readonly pinned?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onNote?: ((note: string) => void) | undefined;
  /** Bytes of the archive, and all of it. */
  readonly onFetched?: ((done: number, total: number) => void) | undefined;
}

/**
 * The archive of an image out of a registry, written to `path`: beside the image, else out of the index source.
 * @param beside of the image's own repository; null for an image layout
 * @returns false when there is none. @throws as fetchRemoteArchive; ClipError BAD_REFERENCE
 */
export async function findRemoteArchive(
  image: ResolvedImage,
  path: string,
  beside: ImageArtifacts | null,
  options: FindRemoteOptions,
): Promise<boolean> {
  const { indexSource, signal, onNote } = options;
  try {
    if (beside !== null && (await fetchRemoteArchive(image, path, beside, options))) return true;
  } catch (error) {
    if (indexSource === undefined || signal?.aborted) throw error;
    onNote?.(`${(error as Error).message}: ${indexSource} is asked`);
  }
  if (indexSource === undefined) return false;
  const { openArtifacts, parseIndexSource } = await import('../oci/index.js');
  const place = parseIndexSource(indexSource, image);
  // A login that was given for the image's registry is for no other.
  const { credentials, ...elsewhere } = options.source ?? {};
  const artifacts = await openArtifacts(place, place.registry === image.registry ? options.source : elsewhere);
  try {
    return await fetchRemoteArchive(image, path, artifacts, options);
  } finally {
    await artifacts.close();
  }
}

/**
 * The archive that a registry keeps for an image, written to `path`. Whoever may push to the repository may push an archive, as they may
 * push the image; what it claims of the image is compared with the image's manifest and config. An archive that was mirrored with its
 * image names the repository where it was made: it is written with the one where the image was found.
 * @param artifacts of the image's repository, or of another one (`--index-source`)
 * @param pinned the digest that the archive must have
 * @returns false when there is none. @throws ClipError DIGEST_MISMATCH, BAD_FORMAT for one that is not of this image
 */
async function fetchRemoteArchive(
  image: ResolvedImage,
  path: string,
  artifacts: ImageArtifacts,
  options: Pick<FindRemoteOptions, 'pinned' | 'signal' | 'onFetched'> = {},
): Promise<boolean> {
  const bytes = await artifacts.fetch(image.manifestDigest, options.pinned, options.signal, options.onFetched);
  if (bytes === null) return false;
  const input: ArchiveInput = {
    name: `the archive of ${image.reference} in its registry`,
    size: bytes.length,
    readAt: (offset, length) => bytes.subarray(offset, offset + length),
  };
  const found = readImageMeta(input);
  check(found, image);
  const { reference, registry, repository } = image;
  const here = found.registry === registry && found.repository === repository;
  const parts = here ? [bytes] : relocateArchive(input, { reference, registry, repository });
  const { writeFileByRename } = await import('../index/index.js');
  await writeFileByRename(path, parts, options.signal);
  return true;
}

/** @throws ClipError DIGEST_MISMATCH naming what differs */
function check(found: ImageMeta, image: ResolvedImage): void {
  const layers = (list: readonly { digest: string; diffId: string; size: number; mediaType: string }[]): object[] =>
    list.map(({ digest, diffId, size, mediaType }) => ({ digest, diffId, size, mediaType }));
  const same =
    found.manifestDigest !== image.manifestDigest
      ? 'manifest'
      : !isDeepStrictEqual(layers(found.layers), layers(image.layers))
        ? 'layers'
        : !isDeepStrictEqual(found.config, image.config)
          ? 'config'
          : null;
  if (same === null) return;
  throw new ClipError(
    'DIGEST_MISMATCH',
    `the archive in the registry is not of ${image.reference}: its ${same} differs`,
    {
      hint: 'push one again: clipctl index --image REF --push',
    },
  );
}
