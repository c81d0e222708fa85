import type { ImageMeta } from '../archive/index.js';
import type { SourceCounters } from './client.js';
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
}

export interface FillOptions {
  readonly signal?: AbortSignal | undefined;
  /** As in {@link BlobOptions}. */
  readonly size: number;
  /** So many bytes of the range are there. What it returns is waited for before more are taken off the link. */
  readonly onBytes?: ((received: number) => Promise<void> | null) | undefined;
}

/** Memory that a blob's reader lends for it, a piece at a time. */
export interface BlobTarget {
  /** Where the next bytes go: never empty, and the same until {@link filled}. */
  room(): Uint8Array;
  /** So many bytes are there. What it returns, if anything, is to be awaited before it is called again. */
  filled(bytes: number): Promise<void> | null;
}

/** Where an image's blobs come from. Nothing here checks a blob's digest: who reads it does, span by span. */
export interface ImageSource {
  /** What has been fetched so far. Live. */
  readonly counters: Readonly<SourceCounters>;

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
   * The range at once, in a buffer of its own that may be transferred to a thread. Cheaper than {@link fetchBlob}: no
   * promise a chunk.
   */
  fetchRange(digest: string, start: number, end: number, options?: BlobOptions): Promise<Uint8Array<ArrayBuffer>>;

  /**
   * Fills `target`, which may be shared memory, with the bytes from `start` on: the cheapest way, for they go there straight
   * from the socket. After a rejection nothing is written to it any more.
   */
  fetchInto(digest: string, start: number, target: Uint8Array, options: FillOptions): Promise<void>;

  /**
   * The whole blob, for one who reads it all once and has a place for it: like {@link fetchBlob}, but where it can be, bytes
   * come off the socket or the disk to where they belong. Resolves when all of them are there; rejects with what `target`
   * rejects with, too.
   */
  scanBlob(digest: string, size: number, target: BlobTarget, options?: Pick<BlobOptions, 'signal'>): Promise<void>;

  /** Ends what is under way. */
  close(): Promise<void>;
}

/** What an archive remembers of where its layers are. */
export type ArchiveOrigin = Pick<ImageMeta, 'reference' | 'registry' | 'repository' | 'manifestDigest'>;
