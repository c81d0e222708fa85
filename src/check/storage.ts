import { fstatSync, readSync } from 'node:fs';
import type { Archive, ArchiveStorage, ImageMeta, S3Location } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import type { BlobSource } from '../lazy/index.js';
import { decodeHeader, HEADER_SIZE } from '../legacy/index.js';
import type { ImageArtifacts, ImageSource, SourceOptions } from '../oci/index.js';
import type { S3Credentials } from '../s3/index.js';

/** Where an archive's data is, if not where the archive says. */
export interface StorageOverride extends Partial<S3Location> {
  /** Of OCI archives: another registry and repository, as a reference whose tag or digest does not count. */
  readonly imageRef?: string | undefined;
}

/** How a source of any kind is reached. */
export interface StorageAccess extends SourceOptions {
  readonly s3?: S3Credentials | null | undefined;
}

/** A source of layers and what it takes to end it. */
export type OpenedSource = BlobSource & {
  /** What it has fetched. Live. */
  readonly counters: Readonly<{ bytes: number; retries?: number; redirects?: number; tokens?: number }>;
  /** Loads what fetching takes, where that is loaded late. */
  load?(): Promise<void>;
  /** Opens connections for fetches that are to come. Nothing is asked for. */
  connect?(count: number): Promise<void>;
  /** What is kept beside the image, if it is in a registry. */
  artifacts?(): Promise<Pick<ImageArtifacts, 'fetchProfile'> | null>;
  close(): Promise<void>;
};

/** @throws ClipError USAGE for an override that is not of the archive's kind, BAD_REFERENCE */
export function overridden(
  archive: { readonly storage: ArchiveStorage; readonly image: ImageMeta },
  override: StorageOverride | undefined,
): { storage: ArchiveStorage; imageRef: string | undefined } {
  const { imageRef, ...s3 } = override ?? {};
  const given = Object.entries(s3).filter(([, value]) => value !== undefined);
  const { storage } = archive;
  const refuse = (what: string, of: string): never => {
    throw new ClipError('USAGE', `${what} given, but the data of this archive is ${of}`, { hint: 'leave it out' });
  };
  if (storage.kind === 's3') {
    if (imageRef !== undefined) refuse('an image', 'in S3');
    return { storage: { ...storage, ...Object.fromEntries(given) }, imageRef: undefined };
  }
  if (given.length > 0) refuse(`S3 ${given[0]![0]}`, storage.kind === 'local' ? 'in its own file' : 'in a registry');
  if (imageRef !== undefined && storage.kind === 'local') refuse('an image', 'in its own file');
  return { storage, imageRef };
}

/**
 * Opens the source of an archive's layers; nothing is fetched yet. `fd` is the archive's, for data that it holds itself and for its
 * index, with which an object of S3 is compared.
 */
export async function openStorage(
  archive: Pick<Archive, 'storage' | 'image' | 'layers'>,
  fd: number,
  access: StorageAccess,
  override?: StorageOverride,
): Promise<OpenedSource> {
  const { storage, imageRef } = overridden(archive, override);
  if (storage.kind === 'local') return new FileSource(fd, archive.image.reference);
  if (storage.kind === 's3') {
    const [{ S3Source }, { CheckedObject }] = await Promise.all([import('../s3/index.js'), import('./s3-object.js')]);
    const source = new S3Source(storage, access.s3);
    const name = archive.image.reference;
    return new CheckedObject(source, archive.layers[0]?.table, name, () => legacyIndex(fd, name));
  }
  return openImage(archive.image, access, { imageRef });
}

/** The index of an archive of version 1. */
function legacyIndex(fd: number, name: string): Uint8Array {
  const readAt = (position: number, length: number): Uint8Array => {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const count = readSync(fd, bytes, done, length - done, position + done);
      if (count === 0) throw new ClipError('SYSTEM', `the archive of ${name} was cut off while it was open`);
      done += count;
    }
    return bytes;
  };
  const { index } = decodeHeader(readAt(0, HEADER_SIZE), name, fstatSync(fd).size);
  return readAt(index.position, index.length);
}

/** The registry or layout that holds an archive's image. */
export async function openImage(
  image: ImageMeta,
  access: SourceOptions,
  override?: StorageOverride,
): Promise<ImageSource> {
  const { sourceForArchive } = await import('../oci/index.js');
  const imageRef = override?.imageRef;
  return sourceForArchive(imageRef === undefined ? image : { ...image, ...(await placeOf(imageRef)) }, access);
}

/** Registry and repository (or layout) of a reference. */
export async function placeOf(imageRef: string): Promise<Pick<ImageMeta, 'registry' | 'repository'>> {
  const { parseReference } = await import('../oci/index.js');
  const parsed = parseReference(imageRef);
  if (parsed.kind === 'layout') return { registry: '', repository: parsed.repository };
  return { registry: parsed.registry, repository: parsed.repository };
}

/** The data of a local version 1 archive: ranges of its own file. */
class FileSource implements OpenedSource {
  /** Nothing comes from elsewhere. */
  readonly counters = { bytes: 0 };
  readonly #fd: number;
  readonly #name: string;

  constructor(fd: number, name: string) {
    this.#fd = fd;
    this.#name = name;
  }

  async fetchInto(
    _digest: string,
    start: number,
    target: Uint8Array,
    options: {
      readonly onBytes?: ((received: number) => Promise<void> | null) | undefined;
      readonly onOrigin?: ((origin: 'file') => void) | undefined;
    } = {},
  ): Promise<void> {
    options.onOrigin?.('file');
    for (let done = 0; done < target.length; ) {
      const count = readSync(this.#fd, target, done, target.length - done, start + done);
      if (count === 0) throw new ClipError('SYSTEM', `${this.#name} ends at byte ${start + done}: it was cut off`);
      done += count;
    }
    await options.onBytes?.(target.length);
  }

  async fetchBlob(digest: string, { start, end }: { start: number; end?: number }): Promise<AsyncIterable<Uint8Array>> {
    const target = new Uint8Array((end ?? start) - start);
    await this.fetchInto(digest, start, target);
    return (async function* () {
      yield target;
    })();
  }

  async close(): Promise<void> {}
}
