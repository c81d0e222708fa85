import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { expectDigest, verifyDigest } from './digest.js';
import { aborted, malformed } from './errors.js';
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
import type { BlobOptions, BlobTarget, ByteRange, FillOptions, ImageSource, SourceCounters } from './source.js';

const CHUNK_BYTES = 256 * 1024;
/** At once at most, into memory that is there. */
const READ_BYTES = 1024 * 1024;
/** image-spec annotations.md; what `oci:DIR:TAG` matches. */
const REF_NAME = 'org.opencontainers.image.ref.name';

const COPY_AGAIN = 'copy the image into it again (skopeo copy)';

function damaged(message: string): ClipError {
  return new ClipError('DIGEST_MISMATCH', message, { hint: COPY_AGAIN });
}

/** An OCI image layout on disk (image-spec image-layout.md). */
export class LayoutSource implements ImageSource {
  readonly reference: LayoutReference;
  readonly counters: SourceCounters = { requests: 0, bytes: 0, retries: 0, redirects: 0, tokens: 0 };
  readonly #open = new Map<string, Promise<{ file: FileHandle; size: number }>>();

  constructor(reference: LayoutReference) {
    this.reference = reference;
  }

  async resolve(options: ResolveOptions = {}): Promise<ResolvedImage> {
    const { directory, canonical } = this.reference;
    const marker = parseJsonObject(await this.#metadata('oci-layout', 4096), join(directory, 'oci-layout'));
    if (marker.imageLayoutVersion !== '1.0.0') {
      throw new ClipError(
        'UNSUPPORTED',
        `${directory} is an image layout of version ${JSON.stringify(marker.imageLayoutVersion)}, not 1.0.0`,
      );
    }
    const index = parseManifest(
      await this.#metadata('index.json', MAX_MANIFEST_BYTES),
      '',
      join(directory, 'index.json'),
    );
    if (index.kind !== 'index') throw malformed(`${join(directory, 'index.json')} is not an index`);
    const reader: ContentReader = {
      name: canonical,
      manifest: async (descriptor) => ({
        bytes: await this.#small(descriptor, MAX_MANIFEST_BYTES),
        contentType: descriptor.mediaType,
      }),
      config: (descriptor, limit) => this.#small(descriptor, limit),
    };
    const root = await this.#root(index, reader);
    return resolveImage(reader, root, { reference: canonical, registry: '', repository: directory }, options);
  }

  async #root(index: Index, reader: ContentReader): Promise<{ digest: string; top: Manifest | Index }> {
    const { tag, digest, directory } = this.reference;
    const tags = index.manifests.map((entry) => entry.annotations[REF_NAME]);
    const list = [...new Set(tags.filter((name) => name !== undefined))]
      .map((name) => `oci:${directory}:${name}`)
      .join(', ');
    const chosen = index.manifests.filter((entry, i) =>
      digest !== null ? entry.digest === digest : tag === null || tags[i] === tag,
    );
    if (chosen.length === 0) {
      const hint = list === '' ? 'its index.json names no tags' : `it has: ${list}`;
      throw new ClipError(
        'NOT_FOUND',
        `the image layout ${directory} has no ${digest ?? (tag === null ? 'image' : `tag ${tag}`)}`,
        { hint },
      );
    }
    if (tag === null && digest === null && new Set(tags).size > 1) {
      throw new ClipError('NOT_FOUND', `the image layout ${directory} holds more than one image`, {
        hint: `name one of: ${list}`,
      });
    }
    const [only] = chosen;
    // Several entries of one name are the platforms of one image, as an index of their own would say.
    if (chosen.length > 1 || only === undefined) return { digest: '', top: { kind: 'index', manifests: chosen } };
    const { bytes, contentType } = await reader.manifest(only);
    return { digest: only.digest, top: parseManifest(bytes, contentType, `manifest ${only.digest} of ${reader.name}`) };
  }

  async #metadata(name: string, limit: number): Promise<Uint8Array> {
    const path = join(this.reference.directory, name);
    const { file, size } = await openRegular(path, (code) =>
      code === 'ENOENT' || code === 'ENOTDIR'
        ? new ClipError('NOT_FOUND', `${this.reference.directory} is not an OCI image layout: it has no ${name}`, {
            hint: 'write oci:DIR:TAG, where DIR holds oci-layout, index.json and blobs/',
          })
        : undefined,
    );
    try {
      if (size > limit) throw new ClipError('LIMIT', `${path} has ${size} bytes; clip takes up to ${limit}`);
      return await readExactly(file, path, 0, size);
    } finally {
      await file.close();
    }
  }

  #blobPath(digest: string): string {
    // The digest's grammar admits no separator and no dot, so the path stays inside blobs/.
    const [algorithm, hex] = expectDigest(digest, 'blob name').split(':') as [string, string];
    return join(this.reference.directory, 'blobs', algorithm, hex);
  }

  #blob(digest: string): Promise<{ file: FileHandle; size: number }> {
    let opened = this.#open.get(digest);
    if (opened === undefined) {
      opened = openRegular(this.#blobPath(digest), (code) =>
        code === 'ENOENT'
          ? new ClipError('NOT_FOUND', `the image layout ${this.reference.directory} lacks blob ${digest}`, {
              hint: COPY_AGAIN,
            })
          : undefined,
      );
      this.#open.set(digest, opened);
      opened.catch(() => this.#open.delete(digest));
    }
    return opened;
  }

  async #small(descriptor: Descriptor, limit: number): Promise<Uint8Array> {
    const what = `blob ${descriptor.digest} of ${this.reference.canonical}`;
    const { file, size } = await this.#blob(descriptor.digest);
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
  ): Promise<{ file: FileHandle; end: number; what: string }> {
    const what = `blob ${digest} of ${this.reference.canonical}`;
    if (options.signal?.aborted) throw aborted(what, options.signal.reason);
    const { file, size } = await this.#blob(digest);
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
    const { file, what } = await this.#bounds(digest, { start, end: start + target.length }, options);
    for (let filled = 0; filled < target.length; ) {
      if (signal?.aborted) throw aborted(what, signal.reason);
      const length = Math.min(READ_BYTES, target.length - filled);
      const { bytesRead } = await file.read(target, filled, length, start + filled);
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
    options: Pick<BlobOptions, 'signal'> = {},
  ): Promise<void> {
    const { file, what } = await this.#bounds(digest, { start: 0, end: size }, { ...options, size });
    for (let at = 0; at < size; ) {
      if (options.signal?.aborted) throw aborted(what, options.signal.reason);
      const room = target.room();
      const { bytesRead } = await file.read(room, 0, Math.min(room.length, size - at), at);
      if (bytesRead === 0) throw damaged(`${what} ends at byte ${at}: it was cut while in use`);
      at += bytesRead;
      this.counters.bytes += bytesRead;
      await target.filled(bytesRead);
    }
  }

  async close(): Promise<void> {
    const files = [...this.#open.values()];
    this.#open.clear();
    await Promise.allSettled(files.map(async (opened) => (await opened).file.close()));
  }
}

/** O_NONBLOCK, and a look at what was opened: a fifo in place of a blob would hang us. */
async function openRegular(
  path: string,
  explain: (code: string) => ClipError | undefined,
): Promise<{ file: FileHandle; size: number }> {
  let file: FileHandle;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? '';
    throw (
      explain(code) ??
      new ClipError('PERMISSION', `cannot open ${path}: ${code}`, { cause, hint: 'name a layout that you may read' })
    );
  }
  const stat = await file.stat();
  if (stat.isFile()) return { file, size: stat.size };
  await file.close();
  throw new ClipError('BAD_FORMAT', `${path} is not a regular file`, { hint: COPY_AGAIN });
}

async function readExactly(
  file: FileHandle,
  what: string,
  position: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  for (let filled = 0; filled < length; ) {
    const { bytesRead } = await file.read(bytes, filled, length - filled, position + filled);
    if (bytesRead === 0) throw damaged(`${what} ends at byte ${position + filled}: it was cut while in use`);
    filled += bytesRead;
  }
  return bytes;
}
