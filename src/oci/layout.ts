import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { type FileUser, flags, openBeneath, withFilePermissionsOf } from '../linux/index.js';
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
/** Of one read into memory of the caller's. */
const READ_BYTES = 1024 * 1024;
/** image-spec annotations.md; what `oci:DIR:TAG` matches. */
const REF_NAME = 'org.opencontainers.image.ref.name';

const COPY_AGAIN = 'copy the image into it again (skopeo copy)';

function damaged(message: string): ClipError {
  return new ClipError('DIGEST_MISMATCH', message, { hint: COPY_AGAIN });
}

/** A blob, open. */
interface OpenFile {
  readonly handle: FileHandle;
  readonly size: number;
}

/** An OCI image layout on disk (image-spec image-layout.md). */
export class LayoutSource implements ImageSource {
  readonly reference: LayoutReference;
  readonly counters: SourceCounters = { requests: 0, bytes: 0, retries: 0, redirects: 0, tokens: 0 };
  readonly #user: FileUser | undefined;
  readonly #open = new Map<string, Promise<OpenFile>>();
  #marked = false;

  /** @param user whose file permissions decide, when another user's process reads for them */
  constructor(reference: LayoutReference, user?: FileUser) {
    this.reference = reference;
    this.#user = user;
  }

  async resolve(options: ResolveOptions = {}): Promise<ResolvedImage> {
    const { directory, canonical } = this.reference;
    await this.#checkMarker();
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

  /**
   * The file `oci-layout` says that a directory is a layout. It is asked for before a blob is read, too: an archive names the
   * directory, and it may not be any other directory with files named by hash.
   */
  async #checkMarker(): Promise<void> {
    if (this.#marked) return;
    const { directory } = this.reference;
    const marker = parseJsonObject(await this.#metadata('oci-layout', 4096), join(directory, 'oci-layout'));
    if (marker.imageLayoutVersion !== '1.0.0') {
      throw new ClipError(
        'UNSUPPORTED',
        `${directory} is an image layout of version ${JSON.stringify(marker.imageLayoutVersion)}, not 1.0.0`,
      );
    }
    this.#marked = true;
  }

  async #metadata(name: string, limit: number): Promise<Uint8Array> {
    const path = join(this.reference.directory, name);
    const file = await this.#openRegular(name, (code) =>
      code === 'ENOENT' || code === 'ENOTDIR'
        ? new ClipError('NOT_FOUND', `${this.reference.directory} is not an OCI image layout: it has no ${name}`, {
            hint: 'write oci:DIR:TAG, where DIR holds oci-layout, index.json and blobs/',
          })
        : undefined,
    );
    try {
      if (file.size > limit) throw new ClipError('LIMIT', `${path} has ${file.size} bytes; clip takes up to ${limit}`);
      return await readExactly(file, path, 0, file.size);
    } finally {
      await file.handle.close();
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
    return this.#openRegular(join('blobs', algorithm, hex), (code) =>
      code === 'ENOENT'
        ? new ClipError('NOT_FOUND', `the image layout ${this.reference.directory} lacks blob ${digest}`, {
            hint: COPY_AGAIN,
          })
        : undefined,
    );
  }

  /**
   * Opens a regular file below the layout's directory, with the user's permissions and through no symbolic link: the layout
   * may be another user's, and a link in it would lead to files that only this process can read (docs/security.md, "Layouts").
   */
  async #openRegular(name: string, explain: (code: string) => ClipError | undefined): Promise<OpenFile> {
    const { directory } = this.reference;
    const user = this.#user;
    const fds: number[] = [];
    const keep = (fd: number): number => {
      fds.push(fd);
      return fd;
    };
    try {
      const asUser = <T>(run: () => T): T => (user === undefined ? run() : withFilePermissionsOf(user, run));
      const base = keep(asUser(() => openSync(directory, flags.O_PATH | constants.O_DIRECTORY)));
      // With O_PATH nothing happens to a device or a FIFO.
      const found = keep(openBeneath(base, name, flags.O_PATH, { user }));
      const stat = fstatSync(found);
      if (!stat.isFile()) {
        throw new ClipError('BAD_FORMAT', `${join(directory, name)} is not a regular file`, { hint: COPY_AGAIN });
      }
      // The permissions are taken for this thread alone, so the open that they decide about is synchronous.
      const readable = keep(asUser(() => openSync(`/proc/self/fd/${found}`, constants.O_RDONLY)));
      return { handle: await open(`/proc/self/fd/${readable}`, constants.O_RDONLY), size: stat.size };
    } catch (cause) {
      if (cause instanceof ClipError) throw cause;
      const code = (cause as NodeJS.ErrnoException).code ?? '';
      const path = join(directory, name);
      if (code === 'ELOOP') {
        throw new ClipError('BAD_FORMAT', `${path}: a symbolic link in an image layout is not followed`, {
          cause,
          hint: COPY_AGAIN,
        });
      }
      throw (
        explain(code) ??
        new ClipError('PERMISSION', `cannot open ${path}: ${code}`, { cause, hint: 'name a layout that you may read' })
      );
    } finally {
      for (const fd of fds) closeSync(fd);
    }
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
    const { file, what } = await this.#bounds(digest, { start, end: start + target.length }, options);
    for (let filled = 0; filled < target.length; ) {
      if (signal?.aborted) throw aborted(what, signal.reason);
      const length = Math.min(READ_BYTES, target.length - filled);
      const { bytesRead } = await file.handle.read(target, filled, length, start + filled);
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
      const { bytesRead } = await file.handle.read(room, 0, Math.min(room.length, size - at), at);
      if (bytesRead === 0) throw damaged(`${what} ends at byte ${at}: it was cut while in use`);
      at += bytesRead;
      this.counters.bytes += bytesRead;
      await target.filled(bytesRead);
    }
  }

  async close(): Promise<void> {
    const files = [...this.#open.values()];
    this.#open.clear();
    await Promise.allSettled(files.map(async (opened) => (await opened).handle.close()));
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
    const { bytesRead } = await file.handle.read(bytes, filled, length - filled, position + filled);
    if (bytesRead === 0) throw damaged(`${what} ends at byte ${position + filled}: it was cut while in use`);
    filled += bytesRead;
  }
  return bytes;
}
