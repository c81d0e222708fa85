import { createHash } from 'node:crypto';
import { type ArchiveFile, openStorage, overridden } from '../check/index.js';
import { ErofsReader, InodeView, mapFileRange } from '../erofs/index.js';
import type { Follower, LayerClaim, LayerSet } from '../lazy/index.js';
import type { Logger } from '../metrics/index.js';
import type { ClientContext, ImageOptions } from '../wire/index.js';
import { FetchAhead } from './prefetch.js';
import { RegistrySource } from './registry-source.js';

/** An image's layers: open, and being fetched ahead, before the image has a FUSE connection. */
export class ImageData {
  readonly file: ArchiveFile;
  readonly source: RegistrySource;
  readonly layers: readonly LayerClaim[];
  readonly ahead: FetchAhead;
  /** Fetches the files that read files lead to; null if that is off, or the archive has no references. */
  readonly follower: Follower | null;
  readonly #options: ImageOptions;
  #begun = false;
  #closed = false;

  /** Takes `file` over; `close` gives it back. @throws FormatError */
  constructor(file: ArchiveFile, options: ImageOptions, client: ClientContext, set: LayerSet, log: Logger) {
    const { archive } = file;
    this.file = file;
    this.#options = options;
    // Opening fetches nothing: a node that boots without its registry mounts all the same.
    const { storage } = overridden(archive, options.storage); // an impossible storage is refused now, not by the first read
    // Version 1 has no digests of its data: what was read from one S3 object must not be given for another.
    const elsewhere = storage.kind === 's3' && options.storage !== undefined;
    const digestOf = (digest: string): string =>
      elsewhere
        ? `sha256:${createHash('sha256')
            .update(`${digest} ${JSON.stringify(storage)}`)
            .digest('hex')}`
        : digest;
    this.source = new RegistrySource((access) => {
      const plainHttp = options.plainHttp || access.plainHttp === true;
      return openStorage(archive, file.fd, { ...access, plainHttp }, options.storage);
    }, client);
    // The files of the SDK may be gone when the first read comes.
    if (storage.kind === 's3') {
      this.source.prepare().then(
        () => log.debug('the S3 client is loaded'),
        () => {},
      );
    }
    // The data of a local version 1 archive is read where it lies.
    const own = archive.storage.kind === 'local' ? { fd: file.fd, key: `${file.key}.${archive.identity}` } : undefined;
    this.layers = archive.image.layers.map((meta, index) =>
      set.open({
        meta: { ...meta, digest: digestOf(meta.digest) },
        table: archive.layers[index]!.table,
        file: own,
        source: this.source,
        readState: (span) => archive.checkpointState(index, span),
      }),
    );
    this.ahead = new FetchAhead(archive, this.layers, set, log);
    this.follower = this.#follow(set, log);
  }

  #follow(set: LayerSet, log: Logger): Follower | null {
    const { references, profile, tree, placement } = this.file.archive;
    const { readahead, prefetch } = this.#options;
    // A recorded profile is better than references.
    if (references === null || !readahead || !prefetch || profile?.source === 'recorded') return null;
    const reader = new ErofsReader(tree);
    const scratch = new InodeView();
    return set.follow(this.layers, {
      references,
      map: (nid, offset, length, visit) => mapFileRange(reader, placement, scratch, nid, offset, length, visit),
      onFault: (error) => log.warn({ error: String(error) }, 'references cannot be followed'),
    });
  }

  /** Begins to fetch ahead: the archive's profile, then, if wanted, everything. Once. */
  fetchAhead(): void {
    if (this.#begun || this.#closed) return;
    this.#begun = true;
    const { prefetch, readahead, fill } = this.#options;
    // Without read-ahead only bytes that are read may be fetched; a profile is read-ahead as well.
    this.ahead.begin({ profile: prefetch && readahead, fill });
  }

  /** When no read is under way any more. */
  async close(): Promise<void> {
    this.#closed = true;
    this.ahead.cancelAll();
    this.follower?.close();
    for (const claim of this.layers) claim.close();
    await this.source.close();
    this.file.close();
  }
}
