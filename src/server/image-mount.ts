import type { ConnectionId, Nid } from '../bytes/index.js';
import type { ArchiveFile } from '../check/index.js';
import { ErofsReader, InodeView, mapFileRange } from '../erofs/index.js';
import { dropPages, type FuseMountSpec, type ReadMiss, replyData, replyError } from '../fuse/index.js';
import type { Logger } from '../metrics/index.js';
import { noteTouch } from '../spans/index.js';
import type { ConnectionState, ReadJournal } from '../wire/index.js';
import type { FreedSpans } from './freed-spans.js';
import type { ImageData } from './image-data.js';
import type { FetchAhead } from './prefetch.js';
import { type Piece, Reads } from './reads.js';
import { Recording } from './recording.js';
import type { RegistrySource } from './registry-source.js';

/** One image served through one FUSE connection: the I/O thread's side of it. */
export class ImageMount {
  readonly id: ConnectionId;
  readonly reads: Reads;
  readonly fuseFd: number;
  /** Records the first reads, for a profile; null after a take-over, which has missed the beginning. */
  readonly recording: Recording | null;
  readonly #image: ImageData;
  readonly #reader: ErofsReader;
  readonly #scratch = new InodeView();
  readonly #readahead: boolean;
  readonly #attachedAt = performance.now();
  #firstReadAt = 0;
  readonly #paranoid: boolean;

  /** Takes `image` over; `close` closes it. @throws FormatError */
  constructor(
    state: ConnectionState,
    image: ImageData,
    fuseFd: number,
    log: Logger,
    /** Where to keep a profile of this mount; null: none is recorded. */
    profiles: string | null,
    journal: ReadJournal | null,
  ) {
    const { archive } = image.file;
    this.id = state.id;
    this.#image = image;
    this.fuseFd = fuseFd;
    this.#readahead = state.options.readahead;
    this.#paranoid = state.options.paranoid === true;
    this.#reader = new ErofsReader(archive.tree);
    // A profile needs spans that an index can choose.
    this.recording =
      profiles === null || archive.storage.kind !== 'oci' ? null : Recording.begin(archive.image, profiles, log);
    this.reads = new Reads(
      {
        readTimeoutMs: state.options.readTimeout * 1000,
        map: (nid, offset, size) => this.#map(nid, offset, size),
        read: (piece, signal) =>
          image.layers[piece.layer]!.read(piece.layerOffset, piece.length, {
            signal,
            file: piece.file,
            recheck: this.#paranoid,
          }),
        follow: (nid, pieces) => image.follower?.onMiss(nid, pieces),
        replyData: (unique, pieces) => {
          this.#firstReadAt ||= performance.now();
          return replyData(fuseFd, unique, pieces);
        },
        replyError: (unique, errno) => replyError(fuseFd, unique, errno),
        journal,
      },
      log.child({ mount: state.id, archive: state.archivePath }),
    );
  }

  /** Milliseconds until the first read was answered that had to wait; null: none yet. */
  get firstRead(): number | null {
    return this.#firstReadAt === 0 ? null : Math.round(this.#firstReadAt - this.#attachedAt);
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
      tree: this.file.archive.tree.buffer as SharedArrayBuffer,
      layers: this.#image.layers.map(({ layer }, i) => ({
        ...layer.shared,
        // Every read comes to the I/O thread, which checks the spans.
        ...(this.#paranoid ? { fd: -1 } : {}),
        touch: this.recording?.touch[i],
      })),
      placement: this.file.archive.placement,
      resumed,
    };
  }

  miss(miss: ReadMiss): void {
    this.reads.start(miss.unique, miss.nid, miss.offset, miss.size, miss.thread);
  }

  /** Drops the kernel's pages of freed spans. False: not all yet. */
  async dropPages(freed: FreedSpans): Promise<boolean> {
    const layers = this.#image.layers.map(({ layer }) => layer.shared);
    if (!freed.concerns(layers)) return true;
    return dropPages(this.fuseFd, freed.rangesOf(this.#reader, this.file.archive.placement, layers));
  }

  #map(nid: Nid, offset: number, size: number): Piece[] {
    const pieces: Piece[] = [];
    let position = offset;
    mapFileRange(this.#reader, this.file.archive.placement, this.#scratch, nid, offset, size, (layer, at, length) => {
      pieces.push({ layer, layerOffset: at, length, file: undefined });
      // The worker noted only the piece that it missed.
      if (layer >= 0 && this.recording !== null) noteTouch(this.recording.touch[layer]!, at, length);
      position += length;
    });
    if (!this.#readahead || position === offset) return pieces;
    // A tar holds a file's data in one stretch, so the rest of the file follows the last piece.
    const last = pieces.at(-1)!;
    if (last.layer < 0) return pieces;
    this.#reader.inode(nid, this.#scratch);
    const layerSize = this.#image.layers[last.layer]!.layer.spans.size;
    const end = Math.min(layerSize, last.layerOffset + last.length + Math.max(0, this.#scratch.size - position));
    pieces[pieces.length - 1] = { ...last, file: { key: this.id * 2 ** 32 + nid, end } };
    return pieces;
  }

  /** After the FUSE workers have released it. */
  async close(): Promise<void> {
    this.ahead.cancel();
    this.recording?.stop();
    this.reads.abandon();
    // Reads that were given up still hold their layers until they have noticed.
    await this.reads.stopped();
    await this.#image.close();
  }
}
