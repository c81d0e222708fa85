import { isDeepStrictEqual } from 'node:util';
import { type ArchiveInput, type ImageMeta, readImageMeta, relocateArchive } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import type { ResolvedImage, SourceOptions } from '../oci/index.js';

/**
 * The archive that is kept beside an image in its registry, written to `path`. Whoever may push to the repository may push an
 * archive, as they may push the image; what it claims of the image is compared with the image's manifest and config. An archive that
 * was mirrored with its image names the repository where it was made: it is written with the one where it was found.
 * @param pinned the digest that the archive must have
 * @returns false when the registry has none. @throws ClipError DIGEST_MISMATCH, BAD_FORMAT for one that is not of this image
 */
export async function fetchRemoteArchive(
  image: ResolvedImage,
  path: string,
  options: { source?: SourceOptions; pinned?: string | undefined; signal?: AbortSignal | undefined } = {},
): Promise<boolean> {
  if (image.registry === '') return false;
  const [{ openArtifacts }, { writeFileByRename }] = await Promise.all([
    import('../oci/index.js'),
    import('../index/index.js'),
  ]);
  const artifacts = await openArtifacts(image, options.source);
  try {
    const bytes = await artifacts.fetch(image.manifestDigest, options.pinned, options.signal);
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
    await writeFileByRename(path, parts, options.signal);
    return true;
  } finally {
    await artifacts.close();
  }
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
