import { AbortError, ClipError, optionsOf, string } from '../bytes/index.js';
import { placeOf, readArchiveOrigin } from '../check/index.js';
import { type CreateFromOCIImageOptions, INDEX_OPTIONS, type IndexResult, indexImage } from '../index/index.js';

export interface ConvertOptions extends Omit<CreateFromOCIImageOptions, 'imageRef' | 'storageImageRef'> {
  /** A version 1 archive of an OCI image. */
  readonly archivePath: string;
  /** Where the image is, if not where the archive says. */
  readonly imageRef?: string | undefined;
}

const { storageImageRef: _, ...OPTIONS } = INDEX_OPTIONS;
/** Before the image is asked for, which may take a while. */
const check = optionsOf({ archivePath: string, outputPath: string }, { ...OPTIONS, imageRef: string });

/**
 * Makes an archive of version 3 of the image that a version 1 archive is of. The image is read anew, so that the archive has what
 * version 1 lost: hard links, extended attributes, devices. It must have the same layers.
 * @throws ClipError UNSUPPORTED for archives that are of no image; CONFLICT when the image is another one by now
 */
export async function convertArchive(options: ConvertOptions): Promise<IndexResult> {
  check(options, 'convertArchive: options');
  const { archivePath, imageRef, signal } = options;
  if (signal?.aborted) throw new AbortError(`converting ${archivePath}`, signal);
  const { storage, image } = readArchiveOrigin(archivePath);
  if (storage.kind !== 'oci') {
    throw new ClipError('UNSUPPORTED', `${archivePath} is of a directory and not of an image`, {
      hint: 'it can be mounted as it is; clipctl extract unpacks it',
    });
  }
  const place = imageRef === undefined ? image : await placeOf(imageRef);
  const joint = image.reference.slice(`${image.registry}/${image.repository}`.length);
  const named = place.registry === '' ? imageRef! : `${place.registry}/${place.repository}${joint}`;
  const expected = image.layers.map(({ digest }) => digest);
  const convert = (found: string): Promise<IndexResult> => indexAs(found, expected, options);
  try {
    return await convert(named);
  } catch (error) {
    // The tag means another image by now, or nothing. The manifest may still be there.
    const moved = error instanceof ClipError && (error.code === 'CONFLICT' || error.code === 'NOT_FOUND');
    if (!moved || place.registry === '') throw error;
    return await convert(`${place.registry}/${place.repository}@${image.manifestDigest}`).catch(() => {
      throw error;
    });
  }
}

function indexAs(found: string, expected: readonly string[], options: ConvertOptions): Promise<IndexResult> {
  const { archivePath, imageRef: _, ...rest } = options;
  return indexImage(
    { ...rest, imageRef: found },
    {
      onResolved: ({ layers }) => {
        const digests = [...new Set(layers.map(({ digest }) => digest))];
        if (digests.join() === [...new Set(expected)].join()) return;
        throw new ClipError(
          'CONFLICT',
          `${found} has other layers than ${archivePath} names: it is another image by now`,
          {
            hint: 'mount the old archive as it is, or index the new image: clipctl index',
          },
        );
      },
    },
  );
}
