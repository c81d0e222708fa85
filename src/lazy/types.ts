import type { SpanIndex } from '../bytes/index.js';
import type { ImageSource } from '../oci/index.js';

/** The source of a layer's compressed bytes. */
export type BlobSource = Pick<ImageSource, 'fetchBlob' | 'fetchInto'>;

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
}
