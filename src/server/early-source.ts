import type { SpanCache } from '../cache/index.js';
import { openImage, readArchiveOrigin, type StorageAccess } from '../check/index.js';
import { DEFAULT_IMAGE_OPTIONS, type ImageOptions } from '../wire/index.js';
import { descriptorPath } from './open-paths.js';
import { RegistrySource } from './registry-source.js';

/** Opened at the mount, because the first program's files come over this many at a time, and each would wait for a handshake. */
export const READY_CONNECTIONS = 8;

/**
 * Connects to where an image's layers are, before anything else of its archive is read: a handshake takes one or two round trips, and opening the
 * archive, its layers and a profile takes as long. Null: it has bytes in the cache already, and whether any are missing is known later;
 * or nothing may be fetched ahead; or it is in no registry. What is wrong with the archive is told by opening it.
 * @param fd the archive
 */
export function connectEarly(
  fd: number,
  given: Partial<ImageOptions>,
  access: StorageAccess,
  cache: SpanCache,
): RegistrySource | null {
  const { prefetch, readahead, plainHttp, storage: override } = { ...DEFAULT_IMAGE_OPTIONS, ...given };
  if (!prefetch || !readahead) return null;
  try {
    const { storage, image } = readArchiveOrigin(descriptorPath(fd));
    if (storage.kind !== 'oci' || image.layers.every(({ digest }) => cache.holds(digest))) return null;
    if (image.registry === '' && override?.imageRef === undefined) return null;
    const source = new RegistrySource(
      (way) => openImage(image, { ...way, plainHttp: plainHttp || way.plainHttp === true }, override),
      RegistrySource.contextOf(access),
    );
    source.connect(READY_CONNECTIONS).catch(() => {});
    return source;
  } catch {
    return null;
  }
}
