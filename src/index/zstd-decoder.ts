import { MIN_SPAN_BYTES } from '../archive/index.js';
import { ZstdIndexer } from '../zstd/index.js';
import type { DecodedLayer, DecodeSink, LayerDecoder, SpanRules } from './layer-decoder.js';

/** A Zstandard layer: spans at frame ends, or at block ends of a layer that can only be read in order. No checkpoint states. */
export class ZstdDecoder implements LayerDecoder {
  readonly #sink: DecodeSink;
  readonly #indexer: ZstdIndexer;

  constructor({ spanBytes, cuts, blobBytes }: SpanRules, sink: DecodeSink) {
    this.#sink = sink;
    this.#indexer = new ZstdIndexer({
      spanBytes,
      blobBytes,
      minBytes: MIN_SPAN_BYTES,
      ...(cuts !== undefined && { cuts }),
    });
    this.#indexer.onBoundary = (layerOffset, byteOffset) => sink.boundary(layerOffset, byteOffset * 8);
    sink.boundary(0, 0);
  }

  push(bytes: Uint8Array): void {
    this.#indexer.push(bytes, (view) => this.#sink.output(view));
  }

  finish(): DecodedLayer {
    const { kind, warnings } = this.#indexer.finish();
    return { kind, warnings };
  }
}
