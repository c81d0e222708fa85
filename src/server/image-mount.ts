import { closeSync, constants, openSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { ConnectionId, Nid } from '../bytes/index.js';
import type { CachedLayer } from '../cache/index.js';
import type { ArchiveFile } from '../check/index.js';
import { ErofsReader, InodeView, mapFileRange, pathsOf } from '../erofs/index.js';
import { dropPages, type FuseMountSpec, MountHits, type ReadMiss, replyData, replyError } from '../fuse/index.js';
import type { Fetched } from '../lazy/index.js';
import { flags } from '../linux/index.js';
import { Histogram, type Logger, type Metrics } from '../metrics/index.js';
import { noteTouch } from '../spans/index.js';
import {
  type ConnectionState,
  type ConnectionStats,
  imageAnchorName,
  type JourneyReply,
  planeOf,
  type ReadJournal,
} from '../wire/index.js';
import { Callers } from './caller.js';
import { ReaderCommands } from './command-files.js';
import type { FreedSpans } from './freed-spans.js';
import type { ImageData, ProfileSearch } from './image-data.js';
import { Journey, spanFates } from './journey.js';
import type { FetchAhead } from './prefetch.js';
import { type EndedRead, type Piece, Reads } from './reads.js';
import { Recording } from './recording.js';
import type { RegistrySource } from './registry-source.js';
import { type ServedTree, servedImage, servedLayers } from './served-tree.js';

/** Files that `clipctl stats` names. */
const MAX_SLOWEST = 5;

/** One image served through one FUSE connection: the I/O thread's side of it. */
export class ImageMount {
  readonly id: ConnectionId;
  readonly reads: Reads;
  /** Of reads that were passed to this thread. */
  readonly waits = new Histogram();
  readonly journey: Journey;
  /** Where it was mounted since this server knows it. */
  readonly places: Set<string>;
  /** Resolves when it is not served any more. */
  readonly closed: Promise<void>;
  #onClosed = (): void => {};
  readonly #callers = new Callers();
  readonly #commands = new ReaderCommands(() => this.#image.followsCommands);
  /** Reads that FUSE workers answered. */
  readonly #hits = new MountHits();
  readonly #state: ConnectionState;
  /** Told of each read that was passed to this thread, when it has its answer. */
  readonly watchers = new Set<(read: EndedRead) => void>();
  readonly fuseFd: number;
  /** Records the first reads, for a profile; null after a take-over, which has missed the beginning. */
  readonly recording: Recording | null;
  readonly #image: ImageData;
  readonly #served: ServedTree;
  readonly #scratch = new InodeView();
  readonly #readahead: boolean;
  readonly #attachedAt = performance.now();
  /** Milliseconds until the first read was answered that had to wait. */
  #firstWait: number | null = null;
  readonly #paranoid: boolean;
  readonly #kernel: boolean;

  /** Takes `image` over; `close` closes it. @throws FormatError */
  constructor(
    state: ConnectionState,
    image: ImageData,
    fuseFd: number,
    log: Logger,
    /** Where to keep a profile of this mount, and under which name; null: none is recorded. */
    profiles: ProfileSearch | null,
    journal: ReadJournal | null,
    metrics: Metrics,
  ) {
    const { archive } = image.file;
    this.id = state.id;
    this.#image = image;
    this.fuseFd = fuseFd;
    this.journey = new Journey(this.#attachedAt);
    this.#state = state;
    this.places = new Set(state.places.map(({ path }) => path));
    this.closed = new Promise((resolve) => {
      this.#onClosed = resolve;
    });
    this.#readahead = state.options.readahead;
    this.#paranoid = state.options.paranoid === true;
    this.#kernel = planeOf(state).kind === 'kernel';
    this.#served = this.#kernel ? servedLayers(archive) : servedImage(archive);
    // A profile needs spans that an index can choose.
    this.recording =
      profiles === null || archive.storage.kind !== 'oci'
        ? null
        : Recording.begin(archive.image, profiles.name, profiles.store);
    if (this.recording !== null) image.ofReaders?.watch(this.recording.touch);
    this.reads = new Reads(
      {
        readTimeoutMs: state.options.readTimeout * 1000,
        map: (nid, offset, size) => this.#map(nid, offset, size),
        read: (piece, signal, onSource) =>
          image.layers[piece.layer]!.read(piece.layerOffset, piece.length, {
            signal,
            file: piece.file,
            recheck: this.#paranoid,
            onSource,
          }),
        follow: (nid, pieces, thread) => this.#follow(nid, pieces, thread),
        replyData: (unique, pieces) => {
          this.#firstWait ??= performance.now() - this.#attachedAt;
          return replyData(fuseFd, unique, pieces);
        },
        replyError: (unique, errno) => replyError(fuseFd, unique, errno),
        callerOf: (thread) => (this.watchers.size === 0 ? null : this.#callers.of(thread)),
        onEnd: (read) => this.#ended(read, metrics),
        journal,
      },
      log.child({ mount: state.id, archive: state.archivePath }),
    );
  }

  /** A read that was passed to this thread has its answer. */
  #ended(answered: EndedRead, metrics: Metrics): void {
    // The kernel asks for layers, by their own numbers.
    const read = this.#kernel ? { ...answered, nid: this.#nidOf(answered) } : answered;
    const seconds = (read.ended - read.started) / 1000;
    this.waits.observe(seconds);
    metrics.histogram(`readSeconds.${read.source ?? 'disk_cache'}`).observe(seconds);
    if (read.error !== null && read.error !== 'INTERRUPTED' && read.error !== 'TIMED_OUT') {
      metrics.counter(`readFault.${read.error}`).add();
    }
    this.journey.read(read);
    for (const watcher of this.watchers) watcher(read);
  }

  /** Of the image's file; 0, which no inode has, if it is not known. */
  #nidOf({ nid, last }: EndedRead): Nid {
    return ((last === null ? null : this.#served.fileOf(nid, 0, last))?.nid ?? 0) as Nid;
  }

  /** It is mounted. Unless the kernel reads all of it by itself, reads are to come. */
  prepare(): void {
    if (this.kernelFiles().includes(null)) this.#served.prepare();
  }

  /** @returns whether it is of this image */
  noteFetched(fetched: Fetched): boolean {
    const layer = this.#image.layers.findIndex(({ layer }) => layer.shared.id === fetched.layer);
    if (layer >= 0) this.journey.fetched(layer, fetched);
    return layer >= 0;
  }

  /** Milliseconds until the first read was answered; null: none yet. */
  get firstRead(): number | null {
    const answers = [this.#hits.first, this.#firstWait].filter((time) => time !== null);
    return answers.length === 0 ? null : Math.round(Math.min(...answers));
  }

  get file(): ArchiveFile {
    return this.#image.file;
  }

  get source(): RegistrySource {
    return this.#image.source;
  }

  get ahead(): FetchAhead {
    return this.#image.ahead;
  }

  /** The mount as the FUSE workers get it. */
  spec(resumed: boolean): FuseMountSpec {
    return {
      id: this.id,
      fd: this.fuseFd,
      tree: this.#served.tree,
      layers: this.#image.layers.map(({ layer }, i) => ({
        ...layer.shared,
        // Every read comes to the I/O thread, which checks the spans.
        ...(this.#paranoid ? { fd: -1 } : {}),
        touch: this.recording?.touch[i],
      })),
      placement: this.#served.placement,
      kernelReads: this.#kernel,
      resumed,
      hits: this.#hits.shared,
    };
  }

  /** How much of the image was used, and how its reads went. */
  usage(): Pick<ConnectionStats, 'imageBytes' | 'tarBytes' | 'touchedBytes' | 'hits' | 'waits' | 'slowest'> {
    const { layers } = this.file.archive.image;
    let touchedBytes = 0;
    for (const { layer } of this.#image.layers) {
      const { lastUse, offsets } = layer.shared;
      for (let span = 0; span < lastUse.length; span++) {
        if (lastUse[span]! > 0) touchedBytes += offsets[span + 1]! - offsets[span]!;
      }
    }
    const milliseconds = (share: number): number | null => {
      const seconds = this.waits.quantile(share);
      return seconds === null ? null : Math.round(seconds * 1e6) / 1e3;
    };
    return {
      imageBytes: layers.reduce((sum, { size }) => sum + size, 0),
      tarBytes: layers.reduce((sum, { uncompressedSize }) => sum + uncompressedSize, 0),
      touchedBytes,
      hits: this.#hits.count,
      waits: { p50: milliseconds(0.5), p99: milliseconds(0.99) },
      slowest: this.journey.slowest(MAX_SLOWEST),
    };
  }

  /** Everything that `clipctl report` shows. */
  describeJourney(endedAt: Date | null): JourneyReply {
    const { archive } = this.file;
    const columns = this.journey.columns;
    return {
      format: 1,
      reference: archive.image.reference,
      archivePath: this.#state.archivePath,
      identity: archive.identity,
      places: [...this.places],
      mountedAt: new Date(performance.timeOrigin + this.#attachedAt).toISOString(),
      endedAt: endedAt?.toISOString() ?? null,
      profile: archive.profile?.source ?? null,
      firstExec: this.journey.firstExec,
      firstOutput: this.journey.firstOutput,
      layers: this.#image.layers.map(({ layer }, i) => {
        const { digest, size, uncompressedSize } = archive.image.layers[i]!;
        const fates = spanFates(layer.shared, this.recording?.touch[i] ?? null, columns.fetches, i);
        return { digest, size, uncompressedSize, ends: Array.from(layer.shared.offsets.subarray(1)), fates };
      }),
      columns,
    };
  }

  miss(miss: ReadMiss): void {
    this.reads.start(miss.unique, miss.nid, miss.offset, miss.size, miss.thread);
  }

  /** The layers that the kernel may read from the cache's own files: their descriptors, by layer; null for the others. */
  kernelFiles(): (number | null)[] {
    return this.#image.layers.map(({ layer: { cached, shared } }) =>
      cached.sealed && cached.complete && !this.#paranoid ? shared.fd : null,
    );
  }

  kernelLayers(): number {
    return this.#kernel ? this.kernelFiles().filter((fd) => fd !== null).length : 0;
  }

  /** Layers that could be sealed for the kernel. */
  unsealed(): CachedLayer[] {
    if (!this.#kernel) return [];
    return this.#image.layers.map(({ layer }) => layer.cached).filter((cached) => !cached.sealed && cached.complete);
  }

  /** Drops the kernel's pages of freed spans. False: not all yet. */
  async dropPages(freed: FreedSpans): Promise<boolean> {
    const layers = this.#image.layers.map(({ layer }) => layer.shared);
    if (!freed.concerns(layers)) return true;
    const ranges = freed.rangesOf(this.#served.reader, this.#served.placement, layers);
    if (!this.#kernel) return dropPages(this.fuseFd, { ranges, files: [] });
    const reader = new ErofsReader(this.file.archive.tree);
    const found = freed.rangesOf(reader, null, layers);
    const paths = pathsOf(reader, new Set(found.map(({ nid }) => nid)));
    const files = found.map(({ nid, offset, length }) => ({ path: paths.get(nid)!, offset, length }));
    const root = this.#openImage();
    if (root === null) return dropPages(this.fuseFd, { ranges, files: [] });
    try {
      return await dropPages(this.fuseFd, { ranges, files }, root);
    } finally {
      closeSync(root);
    }
  }

  /** The root of the kernel's own mount; null when that is out of the tree. */
  #openImage(): number | null {
    const { anchor, id } = this.#state;
    try {
      return openSync(join(dirname(anchor), imageAnchorName(id)), flags.O_PATH | constants.O_DIRECTORY);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
  }

  #map(nid: Nid, offset: number, size: number): Piece[] {
    const pieces: Piece[] = [];
    let position = offset;
    const { reader, placement } = this.#served;
    mapFileRange(reader, placement, this.#scratch, nid, offset, size, (layer, at, length) => {
      pieces.push({ layer, layerOffset: at, length, file: undefined });
      // The worker noted only the piece that it missed.
      if (layer >= 0 && this.recording !== null) noteTouch(this.recording.touch[layer]!, at, length);
      position += length;
    });
    if (!this.#readahead || position === offset) return pieces;
    const last = pieces.at(-1)!;
    const file = last.layer < 0 ? null : this.#served.fileOf(nid, position, last);
    if (file === null) return pieces;
    const end = Math.min(this.#image.layers[last.layer]!.layer.spans.size, file.end);
    pieces[pieces.length - 1] = { ...last, file: { key: this.id * 2 ** 32 + file.nid, end } };
    return pieces;
  }

  #follow(nid: number, pieces: readonly Piece[], thread: number): void {
    const { ofReaders } = this.#image;
    const last = pieces.findLast(({ layer }) => layer >= 0);
    if (ofReaders === null || last === undefined) return;
    const file = this.#served.fileOf(nid, 0, last);
    if (file === null) return;
    ofReaders.onMiss(file.nid, pieces);
    this.#commands.look(thread, (words) => this.#image.named(words, true));
  }

  /** After the FUSE workers have released it. */
  async close(): Promise<void> {
    this.#served.close();
    this.ahead.cancelAll();
    this.recording?.stop();
    this.reads.abandon();
    // Reads that were given up still hold their layers until they have noticed.
    await this.reads.stopped();
    await this.#image.close();
    this.#onClosed();
  }
}
