import type { ImageMeta } from '../archive/index.js';
import type { Source } from '../metrics/index.js';
import type { BlobRange } from './byte-ranges.js';
import type { ResolvedImage, ResolveOptions } from './resolve.js';

/** Bytes [start, end) of a blob; without `end`, to its end. */
export interface ByteRange {
  readonly start: number;
  readonly end?: number;
}

export interface BlobOptions {
  readonly signal?: AbortSignal | undefined;
  /** The blob's size, from its descriptor: checked against what the server says. */
  readonly size?: number | undefined;
  readonly onOrigin?: OnOrigin | undefined;
}

export interface ScanOptions {
  readonly signal?: AbortSignal | undefined;
  readonly start?: number;
}

/** Told where bytes come from, before they come; again when another place is asked for the rest. */
export type OnOrigin = (origin: Source) => void;

export interface FillOptions {
  readonly signal?: AbortSignal | undefined;
  /** As in {@link BlobOptions}. */
  readonly size: number;
  /** How often these bytes came before and were wrong: another host is asked, where there is one. */
  readonly mismatches?: number | undefined;
  /** Hears which host the bytes come from, before they do: the last one is that of the last bytes. */
  readonly onHost?: ((host: string) => void) | undefined;
  /** A request is on its way, after the handshake of its connection. Not told of each. */
  readonly onSent?: (() => void) | undefined;
  /** `received` bytes of the range are in memory. A promise that it returns is awaited before more are read. */
  readonly onBytes?: ((received: number) => Promise<void> | null) | undefined;
  readonly onOrigin?: OnOrigin | undefined;
}

/** Memory that a blob's reader lends for it, a piece at a time. */
export interface BlobTarget {
  /** Where the next bytes go: never empty, and the same until {@link filled}. */
  room(): Uint8Array;
  /** `bytes` more are in memory. A promise that it returns is to be awaited before it is called again. */
  filled(bytes: number): Promise<void> | null;
}

/** A source's requests and bytes so far; for statistics. */
export interface SourceCounters {
  requests: number;
  /** Body bytes received, wanted or not. */
  bytes: number;
  retries: number;
  redirects: number;
  tokens: number;
}

/** Indexes of layers in a repository. */
export interface LayerArtifacts {
  /**
   * The index under this tag; null when there is none. @throws ClipError DIGEST_MISMATCH, LIMIT, NETWORK
   * @param admit asked with its size before it is fetched; what it throws is thrown
   */
  fetchLayer(tag: string, signal?: AbortSignal, admit?: (size: number) => void): Promise<Uint8Array | null>;
}

/** Bytes so far, of how many. */
export type OnBytes = (done: number, total: number) => void;

/** Those, archives of images, and profiles of their starts. */
export interface ImageArtifacts extends LayerArtifacts {
  /**
   * The archive of the image with this manifest; null when there is none.
   * @param pinned the archive's own digest, if only that one will do
   * @throws ClipError DIGEST_MISMATCH, LIMIT, NETWORK
   */
  fetch(
    manifestDigest: string,
    pinned?: string,
    signal?: AbortSignal,
    onProgress?: OnBytes,
  ): Promise<Uint8Array | null>;
  /** The bytes of the image's config, if they are kept with its archive: compared with its digest. */
  configOf(
    manifestDigest: string,
    config: { readonly digest: string; readonly size: number },
    signal?: AbortSignal,
  ): Promise<Uint8Array | null>;
  /**
   * The profile of an image's starts by a command, as it was pushed; null when there is none.
   * @param limit of its bytes
   * @throws ClipError DIGEST_MISMATCH, LIMIT, NETWORK
   */
  fetchProfile(
    manifestDigest: string,
    command: string,
    limit: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array | null>;
}

/** Where an image's blobs come from. A source does not check the digests of blobs: their reader does, span by span. */
export interface ImageSource {
  /** Requests and bytes so far. Live. */
  readonly counters: Readonly<SourceCounters>;
  /** Its bytes come over a network. */
  readonly remote: boolean;

  /**
   * Fetches and verifies manifests and config. @throws ClipError naming the reference: NOT_FOUND, UNAUTHORIZED, NO_PLATFORM,
   * NETWORK, BAD_FORMAT, DIGEST_MISMATCH, UNSUPPORTED, LIMIT, ABORTED
   */
  resolve(options?: ResolveOptions): Promise<ResolvedImage>;

  /**
   * Streams a range of a blob, in chunks of some 64 KiB. A lost connection is taken up again where it broke, so the chunks
   * together are always the range, or the iteration throws. Chunks belong to the reader. Leaving the loop ends the request.
   */
  fetchBlob(digest: string, range: ByteRange, options?: BlobOptions): Promise<AsyncIterable<Uint8Array>>;

  /**
   * Fills `target`, which may be shared memory, with the bytes from `start` on. The cheapest way: they go there straight from
   * the socket. After a rejection nothing is written to it any more.
   */
  fetchInto(digest: string, start: number, target: Uint8Array, options: FillOptions): Promise<void>;

  /**
   * Whether {@link fetchParts} is of use for this blob, as far as is known: that is learnt of each host by asking. False where ranges
   * in one request are no better than each by itself.
   */
  takesParts?(digest: string): boolean;

  /**
   * As {@link fetchInto}, of several ranges in one request: `target` has room for all, one after the other.
   * @returns how many bytes of it are filled. Fewer than all: the host does not answer such requests, and from now on
   * {@link takesParts} says so.
   */
  fetchParts?(digest: string, ranges: readonly BlobRange[], target: Uint8Array, options: FillOptions): Promise<number>;

  /** Opens connections for fetches that are to come. Nothing is asked for. @throws ClipError */
  connect?(count: number): Promise<void>;

  /**
   * The blob from `start` on (default: all of it), once, from the socket or the disk straight into the memory that `target` lends,
   * where that is possible. Resolves when all bytes are there. Rejects with what `target` rejects with, too.
   */
  scanBlob(digest: string, size: number, target: BlobTarget, options?: ScanOptions): Promise<void>;

  /** What is kept beside the image in its registry; null for an image that is in none. Of use until the source is closed. */
  artifacts(): Promise<ImageArtifacts | null>;

  /** Ends what is under way. */
  close(): Promise<void>;
}

/** Where an archive's layers are, as the archive says. */
export type ArchiveOrigin = Pick<ImageMeta, 'reference' | 'registry' | 'repository' | 'manifestDigest'>;
