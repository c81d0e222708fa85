import { type ImageMeta, readImageMeta } from '../archive/index.js';
import { HEADER_SIZE, isLegacyHeader, type LegacyOrigin, readLegacyOrigin } from '../legacy/index.js';
import { withArchiveInput } from './archive-input.js';

/**
 * Reads from an archive what image it is of, and nothing else: a tenth of what opening it takes.
 * @throws FormatError when it is damaged; ClipError NOT_FOUND, PERMISSION
 */
export function readArchiveImage(path: string): ImageMeta {
  return readArchiveOrigin(path).image;
}

/** The same, and where the data of the archive is kept. */
export function readArchiveOrigin(path: string): LegacyOrigin {
  return withArchiveInput(path, (input) =>
    isLegacyHeader(input.readAt(0, HEADER_SIZE))
      ? readLegacyOrigin(input)
      : { storage: { kind: 'oci' }, image: readImageMeta(input) },
  );
}
