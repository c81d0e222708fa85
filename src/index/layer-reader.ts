import { EntryColumns, TarParser } from '../tar/index.js';
import { detectEncoding, type Encoding } from './detect.js';
import { GzipDecoder } from './gzip-decoder.js';
import type { DecodeResult, LayerJob } from './messages.js';
import { type LayerDecoder, PlainDecoder, type RawState } from './spans.js';

/** A blob's bytes in, all that an archive says of the layer out. Pure: no threads, no I/O. */
export class LayerReader {
  readonly #job: LayerJob;
  readonly #entries = new EntryColumns();
  readonly #tar = new TarParser({ entries: this.#entries });
  readonly #onOutput = (view: Uint8Array): void => {
    this.#tar.push(view);
  };
  #decoder: LayerDecoder | null = null;
  #encoding: Encoding = 'empty';

  constructor(job: LayerJob) {
    this.#job = job;
  }

  /** The first bytes must be DETECT_BYTES or the whole blob. */
  push(bytes: Uint8Array): void {
    if (this.#decoder === null) {
      this.#encoding = detectEncoding(bytes, 'blob');
      this.#decoder = this.#decoderFor(this.#encoding);
    }
    this.#decoder.push(bytes, this.#onOutput);
  }

  #decoderFor(encoding: Encoding): LayerDecoder {
    const { spanBytes, cuts } = this.#job;
    switch (encoding) {
      case 'gzip':
        return new GzipDecoder(spanBytes, cuts ?? undefined);
      case 'zstd':
      case 'tar':
      case 'empty':
        return new PlainDecoder(spanBytes, cuts ?? undefined);
    }
  }

  takeBoundaries(): number[] {
    return this.#decoder?.spans.takeBoundaries() ?? [];
  }

  takeStates(): RawState[] {
    return this.#decoder?.takeStates() ?? [];
  }

  finish(): { message: DecodeResult; transfer: ArrayBuffer[] } {
    const decoder = this.#decoder!;
    const { warnings } = decoder.finish(this.#onOutput);
    if (this.#encoding !== 'empty') this.#tar.finish();
    const { spans } = decoder;
    const columns = {
      kind: decoder.kind,
      layerOffset: Float64Array.from(spans.layerOffset),
      bitOffset: Float64Array.from(spans.bitOffset),
      crc32: Uint32Array.from(spans.crc32),
    };
    const entries = this.#entries.toTransfer();
    return {
      message: {
        type: 'decode-result',
        encoding: this.#encoding,
        spans: columns,
        entries: entries.message,
        warnings,
        diffSha256: null,
        files: null,
      },
      transfer: [...entries.transfer, columns.layerOffset.buffer, columns.bitOffset.buffer, columns.crc32.buffer],
    };
  }
}
