import { MIN_SPAN_BYTES } from '../archive/index.js';
import { GzipIndexer, type KernelMemory } from '../gzip/index.js';
import type { DecodedLayer, DecodeSink, LayerDecoder, SpanRules } from './layer-decoder.js';

/** A gzip layer: checkpoints as the indexer finds them. */
export class GzipDecoder implements LayerDecoder {
  readonly #sink: DecodeSink;
  readonly #indexer: GzipIndexer;
  #lastBoundary = 0;

  constructor(spans: SpanRules, memory: KernelMemory, sink: DecodeSink) {
    this.#sink = sink;
    this.#indexer = new GzipIndexer(
      { ...spans, minBytes: MIN_SPAN_BYTES, memory },
      {
        output: (view) => sink.output(view),
        boundary: (layerOffset, bitOffset) => this.#boundary(layerOffset, bitOffset),
        checkpoint: ({ header, window }) => sink.state({ header, window }),
        member: (trailer) => sink.member(trailer),
      },
    );
    sink.boundary(0, 0);
  }

  #boundary(layerOffset: number, bitOffset: number): void {
    this.#lastBoundary = layerOffset;
    this.#sink.boundary(layerOffset, bitOffset);
  }

  push(bytes: Uint8Array): void {
    this.#indexer.push(bytes);
  }

  finish(): DecodedLayer {
    const { compressedSize, layerSize, warnings } = this.#indexer.finish();
    // A boundary without a checkpoint is the output's end. The bytes behind it (end of block, trailer) belong to no span.
    if (layerSize > this.#lastBoundary) this.#boundary(layerSize, compressedSize * 8);
    return { kind: 'gzip', warnings };
  }
}
