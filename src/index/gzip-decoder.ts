import { GzipIndexer } from '../gzip/index.js';
import { type LayerDecoder, type RawState, SpanRecorder } from './spans.js';

/** A gzip layer: checkpoints as the indexer finds them. */
export class GzipDecoder implements LayerDecoder {
  readonly kind = 'gzip';
  readonly spans = new SpanRecorder();
  readonly #indexer: GzipIndexer;
  #states: RawState[] = [];

  constructor(spanBytes: number, cuts: Float64Array | undefined) {
    this.#indexer = new GzipIndexer(cuts === undefined ? { spanBytes } : { spanBytes, cuts });
    this.spans.boundary(0, 0);
    this.#indexer.onBoundary = (layerOffset, bitOffset) => this.spans.boundary(layerOffset, bitOffset);
    this.#indexer.onCheckpoint = ({ crc32OfPreviousSpan, header, window }) => {
      this.spans.crc32.push(crc32OfPreviousSpan);
      this.#states.push({ header, window });
    };
  }

  push(bytes: Uint8Array, onOutput: (view: Uint8Array) => void): void {
    this.#indexer.push(bytes, onOutput);
  }

  finish(): { warnings: readonly string[] } {
    const { compressedSize, layerSize, lastSpanCrc32, warnings } = this.#indexer.finish();
    if (layerSize > 0) this.spans.crc32.push(lastSpanCrc32);
    // A boundary without a checkpoint is the output's end already; what follows it (end of block, trailer) is no span's.
    if (layerSize > this.spans.layerOffset.at(-1)!) this.spans.boundary(layerSize, compressedSize * 8);
    return { warnings };
  }

  takeStates(): RawState[] {
    const states = this.#states;
    this.#states = [];
    return states;
  }
}
