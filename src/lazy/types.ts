import type { LayerId, SpanIndex } from '../bytes/index.js';
import type { Source } from '../metrics/index.js';
import type { ImageSource } from '../oci/index.js';
import type { Priority } from './inflate-tasks.js';

/** The source of a layer's compressed bytes. */
export type BlobSource = Pick<ImageSource, 'fetchBlob' | 'fetchInto' | 'takesParts' | 'fetchParts'>;

/** One archive's way to a layer. Archives of one layer and span table share everything else. */
export interface LayerProvider {
  readonly source: BlobSource;
  /** As this archive states it. The source checks it, so an archive that lies fails by itself and not for the others. */
  readonly blobSize: number;
  /** The checkpoint state of a span as it is stored, not yet checked; null where none is needed. */
  readState(span: SpanIndex): Uint8Array | null;
}

/** The file that a read belongs to: sequential read-ahead goes by it. */
export interface FileHint {
  /** Tells files apart, over all mounts. */
  readonly key: string | number;
  /** Where the file's data ends in this layer. Nothing is read ahead beyond. */
  readonly end: number;
}

export interface ReadOptions {
  readonly signal?: AbortSignal | undefined;
  /** Without it nothing is read ahead. */
  readonly file?: FileHint | undefined;
  /** Check spans that are in the cache before this read gets them. */
  readonly recheck?: boolean | undefined;
  /** Told of each stretch where its bytes came from, when they are there. The last one told is the one that was waited for longest. */
  readonly onSource?: ((source: Source) => void) | undefined;
}

/** A request for compressed bytes that has ended well, or a span of the disk cache that was checked. Times are performance.now(). */
export interface Fetched {
  /** Of the open layer. */
  readonly layer: LayerId;
  /** Spans [first, end). */
  readonly first: number;
  readonly end: number;
  readonly bytes: number;
  /** The most urgent reason for any of them. */
  readonly reason: Priority;
  readonly source: Source;
  readonly started: number;
  readonly ended: number;
}

/** A span that an inflate worker was given; its wait for one included. Times are performance.now(). */
export interface Inflated {
  readonly layer: LayerId;
  readonly span: SpanIndex;
  /** What it inflates to. */
  readonly bytes: number;
  readonly started: number;
  readonly ended: number;
  /** Null: it is what the archive says, and stored. */
  readonly error: string | null;
}
