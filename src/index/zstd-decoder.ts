import type { LayerKind } from '../archive/index.js';
import { ZstdIndexer } from '../zstd/index.js';
import { type LayerDecoder, type RawState, SpanRecorder } from './spans.js';

/** A Zstandard layer: spans at frame ends, or at block ends of a layer that can only be read in order. No checkpoint states. */
export class ZstdDecoder implements LayerDecoder {
  readonly spans = new SpanRecorder();
  readonly #indexer: ZstdIndexer;
  #kind: LayerKind = 'zstd';

  constructor(spanBytes: number, cuts: Float64Array | undefined) {
    this.#indexer = new ZstdIndexer(cuts === undefined ? { spanBytes } : { spanBytes, cuts });
    this.spans.boundary(0, 0);
    this.#indexer.onCheckpoint = ({ layerOffset, byteOffset, crc32OfPreviousSpan }) => {
      this.spans.crc32.push(crc32OfPreviousSpan);
      this.spans.boundary(layerOffset, byteOffset * 8);
    };
  }

  /** Known once `finish` has been called. */
  get kind(): LayerKind {
    return this.#kind;
  }

  push(bytes: Uint8Array, onOutput: (view: Uint8Array) => void): void {
    this.#indexer.push(bytes, onOutput);
  }

  finish(): { warnings: readonly string[] } {
    const { kind, warnings } = this.#indexer.finish();
    this.#kind = kind;
    return { warnings };
  }

  takeStates(): RawState[] {
    return [];
  }
}
