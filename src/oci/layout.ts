import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import type { FileUser } from '../linux/index.js';
import { expectDigest, verifyDigest } from './digest.js';
import { DockerArchive } from './docker-archive.js';
import { aborted, malformed } from './errors.js';
import { COPY_AGAIN, LayoutDirectory, type LayoutFiles, type OpenFile } from './layout-files.js';
import { LayoutTar } from './layout-tar.js';
import {
  type Descriptor,
  type Index,
  MAX_MANIFEST_BYTES,
  type Manifest,
  parseJsonObject,
  parseManifest,
} from './manifest.js';
import type { LayoutReference } from './reference.js';
import { type ContentReader, type ResolvedImage, type ResolveOptions, resolveImage } from './resolve.js';
import type {
  BlobOptions,
  BlobTarget,
  ByteRange,
  FillOptions,
  ImageSource,
  ScanOptions,
  SourceCounters,
} from './source.js';

const CHUNK_BYTES = 256 * 1024;
/** Of one read into memory of the caller's. */
const READ_BYTES = 1024 * 1024;
/** image-spec annotations.md; what `oci:DIR:TAG` matches. */
const REF_NAME = 'org.opencontainers.image.ref.name';

function damaged(message: string): ClipError {
  return new ClipError('DIGEST_MISMATCH', message, { hint: COPY_AGAIN });
}

/** An OCI image layout on disk (image-spec image-layout.md): a directory, a tar of one, or the archive of docker save. */
export class LayoutSource implements ImageSource {
  readonly reference: LayoutReference;
  readonly remote = false;
  readonly counters: SourceCounters = { requests: 0, bytes: 0, retries: 0, redirects: 0, tokens: 0 };
  readonly #files: LayoutFiles;
  readonly #open = new Map<string, Promise<OpenFile>>();
  #marked = false;

  /** @param user whose file permissions decide, when another user's process reads for them */
  constructor(reference: LayoutReference, user?: FileUser) {
    this.reference = reference;
    this.#files = filesOf(reference, user);
  }

  async resolve(options: ResolveOptions = {}): Promise<ResolvedImage> {
    const { path, repository, canonical } = this.reference;
    await this.#checkMarker();
    const index = parseManifest(await this.#metadata('index.json', MAX_MANIFEST_BYTES), '', join(path, 'index.json'));
    if (index.kind !== 'index') throw malformed(`${join(path, 'index.json')} is not an index`);
    const reader: ContentReader = {
      name: canonical,
      manifest: async (descriptor) => ({
        bytes: await this.#small(descriptor, MAX_MANIFEST_BYTES),
        contentType: descriptor.mediaType,
      }),
      config: (descriptor, limit) => this.#small(descriptor, limit),
    };
    const root = await this.#root(index, reader);
    return resolveImage(reader, root, { reference: canonical, registry: '', repository }, options);
  }

  async #root(index: Index, reader: ContentReader): Promise<{ digest: string; top: Manifest | Index }> {
    const { form, tag, digest, path } = this.reference;
    const tags = index.manifests.map((entry) => entry.annotations[REF_NAME]);
    const list = [...new Set(tags.filter((name) => name !== undefined))]
      .map((name) => `${form}:${path}:${name}`)
      .join(', ');
    const matching = index.manifests.filter((entry, i) =>
      digest !== null ? entry.digest === digest : tag === null || tags[i] === tag,
    );
    // An image with two tags is there twice.
    const chosen = [...new Map(matching.map((entry) => [entry.digest, entry])).values()];
    if (chosen.length === 0) {
      const hint = list === '' ? 'its index.json names no tags' : `it has: ${list}`;
      throw new ClipError(
        'NOT_FOUND',
        `the image layout ${path} has no ${digest ?? (tag === null ? 'image' : `tag ${tag}`)}`,
        { hint },
      );
    }
    if (tag === null && digest === null && chosen.length > 1 && new Set(tags).size > 1) {
      throw new ClipError('NOT_FOUND', `the image layout ${path} holds more than one image`, {
        hint: `name one of: ${list}`,
      });
    }
    const [only] = chosen;
    // Several entries of one name are the platforms of one image, as an index of their own would say.
    if (chosen.length > 1 || only === undefined) return { digest: '', top: { kind: 'index', manifests: chosen } };
    const { bytes, contentType } = await reader.manifest(only);
    return { digest: only.digest, top: parseManifest(bytes, contentType, `manifest ${only.digest} of ${reader.name}`) };
  }

  /**
   * The file `oci-layout` says that a directory is a layout. It is asked for before a blob is read, too: an archive names the
   * directory, and it may not be any other directory with files named by hash.
   */
  async #checkMarker(): Promise<void> {
    if (this.#marked) return;
    const { path } = this.reference;
    const marker = parseJsonObject(await this.#metadata('oci-layout', 4096), join(path, 'oci-layout'));
    if (marker.imageLayoutVersion !== '1.0.0') {
      throw new ClipError(
        'UNSUPPORTED',
        `${path} is an image layout of version ${JSON.stringify(marker.imageLayoutVersion)}, not 1.0.0`,
      );
    }
    this.#marked = true;
  }

  async #metadata(name: string, limit: number): Promise<Uint8Array> {
    const path = join(this.reference.path, name);
    const file = await this.#files.open(name);
    if (file === null) {
      throw new ClipError('NOT_FOUND', `${this.reference.path} is not an OCI image layout: it has no ${name}`, {
        hint: 'write oci:DIR:TAG, where DIR holds oci-layout, index.json and blobs/',
      });
    }
    try {
      if (file.size > limit) throw new ClipError('LIMIT', `${path} has ${file.size} bytes; clip takes up to ${limit}`);
      return await readExactly(file, path, 0, file.size);
    } finally {
      await file.close();
    }
  }

  #blob(digest: string): Promise<OpenFile> {
    let opened = this.#open.get(digest);
    if (opened === undefined) {
      opened = this.#openBlob(digest);
      this.#open.set(digest, opened);
      opened.catch(() => this.#open.delete(digest));
    }
    return opened;
  }

  async #openBlob(digest: string): Promise<OpenFile> {
    const [algorithm, hex] = expectDigest(digest, 'blob name').split(':') as [string, string];
    await this.#checkMarker();
    const file = await this.#files.open(`blobs/${algorithm}/${hex}`);
    if (file !== null) return file;
    throw new ClipError('NOT_FOUND', `the image layout ${this.reference.path} lacks blob ${digest}`, {
      hint: COPY_AGAIN,
    });
  }

  async #small(descriptor: Descriptor, limit: number): Promise<Uint8Array> {
    const what = `blob ${descriptor.digest} of ${this.reference.canonical}`;
    const file = await this.#blob(descriptor.digest);
    const { size } = file;
    if (size > limit) throw new ClipError('LIMIT', `${what} has ${size} bytes; clip takes up to ${limit}`);
    if (size !== descriptor.size) {
      throw damaged(`${what} has ${size} bytes, its descriptor says ${descriptor.size}`);
    }
    const bytes = await readExactly(file, what, 0, size);
    this.counters.requests++;
    this.counters.bytes += size;
    verifyDigest(bytes, descriptor.digest, what);
    return bytes;
  }

  async #bounds(
    digest: string,
    { start, end }: ByteRange,
    options: BlobOptions,
  ): Promise<{ file: OpenFile; end: number; what: string }> {
    const what = `blob ${digest} of ${this.reference.canonical}`;
    if (options.signal?.aborted) throw aborted(what, options.signal.reason);
    const file = await this.#blob(digest);
    const { size } = file;
    if (options.size !== undefined && size !== options.size) {
      throw damaged(`${what} has ${size} bytes, the manifest says ${options.size}`);
    }
    const last = end ?? size;
    if (!(start >= 0 && start <= last && last <= size))
      throw new RangeError(`bytes [${start}, ${last}) are not in ${what} of ${size} bytes`);
    this.counters.requests++;
    return { file, end: last, what };
  }

  async fetchBlob(digest: string, range: ByteRange, options: BlobOptions = {}): Promise<AsyncIterable<Uint8Array>> {
    const { file, end, what } = await this.#bounds(digest, range, options);
    const { counters } = this;
    return (async function* () {
      for (let at = range.start; at < end; ) {
        if (options.signal?.aborted) throw aborted(what, options.signal.reason);
        const chunk = await readExactly(file, what, at, Math.min(CHUNK_BYTES, end - at));
        at += chunk.length;
        counters.bytes += chunk.length;
        yield chunk;
      }
    })();
  }

  async fetchInto(digest: string, start: number, target: Uint8Array, options: FillOptions): Promise<void> {
    const { signal, onBytes } = options;
    options.onOrigin?.('layout');
    const { file, what } = await this.#bounds(digest, { start, end: start + target.length }, options);
    for (let filled = 0; filled < target.length; ) {
      if (signal?.aborted) throw aborted(what, signal.reason);
      const length = Math.min(READ_BYTES, target.length - filled);
      const bytesRead = await file.read(target, filled, length, start + filled);
      if (bytesRead === 0) throw damaged(`${what} ends at byte ${start + filled}: it was cut while in use`);
      filled += bytesRead;
      this.counters.bytes += bytesRead;
      await onBytes?.(filled);
    }
  }

  async scanBlob(
    digest: string,
    size: number,
    target: BlobTarget,
    { start = 0, signal }: ScanOptions = {},
  ): Promise<void> {
    const { file, what } = await this.#bounds(digest, { start, end: size }, { signal, size });
    for (let at = start; at < size; ) {
      if (signal?.aborted) throw aborted(what, signal.reason);
      const room = target.room();
      const bytesRead = await file.read(room, 0, Math.min(room.length, size - at), at);
      if (bytesRead === 0) throw damaged(`${what} ends at byte ${at}: it was cut while in use`);
      at += bytesRead;
      this.counters.bytes += bytesRead;
      await target.filled(bytesRead);
    }
  }

  async artifacts(): Promise<null> {
    return null;
  }

  async close(): Promise<void> {
    const files = [...this.#open.values()];
    this.#open.clear();
    await Promise.allSettled(files.map(async (opened) => (await opened).close()));
    await this.#files.close();
  }
}

async function readExactly(
  file: OpenFile,
  what: string,
  position: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  for (let filled = 0; filled < length; ) {
    const bytesRead = await file.read(bytes, filled, length - filled, position + filled);
    if (bytesRead === 0) throw damaged(`${what} ends at byte ${position + filled}: it was cut while in use`);
    filled += bytesRead;
  }
  return bytes;
}

function filesOf({ form, path }: LayoutReference, user: FileUser | undefined): LayoutFiles {
  if (form === 'oci') return new LayoutDirectory(path, user);
  const tar = new LayoutTar(path, user);
  return form === 'oci-archive' ? tar : new DockerArchive(tar, path);
}
