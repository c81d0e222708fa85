import { createHash } from 'node:crypto';
import { type ArchiveFile, openStorage, overridden } from '../check/index.js';
import { ErofsReader, InodeView, mapFileRange } from '../erofs/index.js';
import type { AheadOfReaders, FoundProfile, LayerClaim, LayerSet, ProfileStore, StartName } from '../lazy/index.js';
import type { Logger } from '../metrics/index.js';
import type { ClientContext, ImageOptions } from '../wire/index.js';
import { CommandFiles, wordsOf } from './command-files.js';
import { FetchAhead } from './prefetch.js';
import { RegistrySource } from './registry-source.js';

/** Opened at the mount, because the first program's files come over this many at a time, and each would wait for a handshake. */
const READY_CONNECTIONS = 8;

/** Where profiles of earlier starts are, and which one a mount looks for. */
export interface ProfileSearch {
  readonly store: ProfileStore;
  readonly name: StartName;
}

/** An image's layers: open, and being fetched ahead, before the image has a FUSE connection. */
export class ImageData {
  readonly file: ArchiveFile;
  readonly source: RegistrySource;
  readonly layers: readonly LayerClaim[];
  readonly ahead: FetchAhead;
  readonly #ofReaders: AheadOfReaders | null;
  /** What earlier starts have read is known, which is better than references. */
  #profiled: boolean;
  readonly #options: ImageOptions;
  #commandFiles: CommandFiles | null = null;
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
    this.#profiled = archive.profile?.source === 'recorded';
    this.#ofReaders = this.#follow(set, log);
  }

  /** What readers lead to is fetched ahead; null if that is off, or there is no need for it. */
  get ofReaders(): AheadOfReaders | null {
    return this.#profiled ? null : this.#ofReaders;
  }

  /** Whether the files that commands name are fetched. */
  get followsCommands(): boolean {
    return !this.#closed && this.ofReaders !== null && this.#options.prefetch && this.#incomplete;
  }

  /**
   * A command runs, or will run, on the image: the files that its words name are fetched, and what they lead to.
   * @param begun it runs already
   */
  named(words: readonly string[], begun: boolean): void {
    if (!this.followsCommands || words.length === 0) return;
    const { archive } = this.file;
    this.ofReaders?.onNamed(() => {
      this.#commandFiles ??= new CommandFiles(archive.image, new ErofsReader(archive.tree));
      return this.#commandFiles.of(words, begun);
    });
  }

  #follow(set: LayerSet, log: Logger): AheadOfReaders | null {
    const { archive } = this.file;
    const { placement } = archive;
    const { readahead, prefetch } = this.#options;
    if (!readahead || this.#profiled) return null;
    let reader: ErofsReader | null = null;
    const scratch = new InodeView();
    return set.follow(this.layers, this.source, prefetch ? () => archive.references : null, {
      map: (nid, offset, length, visit) => {
        reader ??= new ErofsReader(archive.tree);
        return mapFileRange(reader, placement, scratch, nid, offset, length, visit);
      },
      onFault: (error) => log.warn({ error: String(error) }, 'nothing is fetched ahead of readers any more'),
    });
  }

  /**
   * Begins to fetch ahead: a profile, then, if wanted, everything. Once.
   * @param search null: only the archive's own profile counts, for the start is over
   * @param words of the command that will run, as in MountRequest; absent: the image's own
   */
  fetchAhead(search: ProfileSearch | null, words?: readonly string[]): void {
    if (this.#begun || this.#closed) return;
    this.#begun = true;
    const { prefetch, readahead, fill } = this.#options;
    if (prefetch && readahead && this.#incomplete) {
      this.source.connect(READY_CONNECTIONS).catch(() => {});
    }
    // Without read-ahead only bytes that are read may be fetched; a profile is read-ahead as well.
    const profile = prefetch && readahead ? this.#fetchProfile(search) : Promise.resolve();
    if (search !== null && !this.#profiled) this.named(wordsOf(this.file.archive.image, words), false);
    if (fill) void profile.then(() => !this.#closed && this.ahead.beginFill());
  }

  get #incomplete(): boolean {
    return this.layers.some(({ layer }) => !layer.cached.filled);
  }

  /** By the archive's profile if it was recorded; else by what earlier starts have read, here or elsewhere; else by what the archive derives. */
  async #fetchProfile(search: ProfileSearch | null): Promise<void> {
    const { image } = this.file.archive;
    if (search === null || this.#profiled) return this.ahead.beginOwn();
    const kept = search.store.findKept(search.name, image);
    if (kept !== null) return this.#follows({ profile: kept, from: 'kept' });
    let own: Promise<void> | null = null;
    const found = await search.store.findElsewhere(
      search.name,
      image,
      this.#incomplete
        ? (command, limit, signal) => this.source.profile(image.manifestDigest, command, limit, signal)
        : null,
      () => {
        if (!this.#closed) own = this.ahead.beginOwn();
      },
    );
    if (found !== null && !this.#closed) await this.#follows(found);
    await own;
  }

  #follows(found: FoundProfile): Promise<void> {
    this.#profiled = true;
    return this.ahead.beginFound(found, this.#options.fill);
  }

  /** When no read is under way any more. */
  async close(): Promise<void> {
    this.#closed = true;
    this.ahead.cancelAll();
    this.#ofReaders?.close();
    for (const claim of this.layers) claim.close();
    await this.source.close();
    this.file.close();
  }
}
