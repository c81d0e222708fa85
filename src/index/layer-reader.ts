import { createHash, type Hash } from 'node:crypto';
import { EntryColumns, TarParser } from '../tar/index.js';
import { detectEncoding, type Encoding } from './detect.js';
import { FileHasher } from './file-hasher.js';
import { GzipDecoder } from './gzip-decoder.js';
import type { DecodeResult, LayerJob } from './messages.js';
import { type LayerDecoder, PlainDecoder, type RawState } from './spans.js';
import { ZstdDecoder } from './zstd-decoder.js';

/** A blob's bytes in, all that an archive says of the layer out. Pure: no threads, no I/O. */
export class LayerReader {
  readonly #job: LayerJob;
  readonly #entries = new EntryColumns();
  readonly #files: FileHasher | null;
  readonly #diff: Hash | null;
  readonly #tar: TarParser;
  readonly #onOutput: (view: Uint8Array) => void;
  #decoder: LayerDecoder | null = null;
  #encoding: Encoding = 'empty';

  constructor(job: LayerJob) {
    this.#job = job;
    const files = job.hashes ? new FileHasher(this.#entries) : null;
    const diff = job.hashes ? createHash('sha256') : null;
    this.#files = files;
    this.#diff = diff;
    const entries = this.#entries;
    const tar = new TarParser(
      files === null ? { entries } : { entries, data: (entry, view) => files.data(entry, view) },
    );
    this.#tar = tar;
    this.#onOutput =
      diff === null
        ? (view) => tar.push(view)
        : (view) => {
            diff.update(view);
            tar.push(view);
          };
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
        return new ZstdDecoder(spanBytes, cuts ?? undefined);
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

  /** Throws FormatError when the compressed stream or the tar in it is not complete. */
  finish(): { message: DecodeResult; transfer: ArrayBuffer[] } {
    const decoder = this.#decoder!;
    const warnings = [...decoder.finish().warnings];
    if (this.#encoding !== 'empty') this.#tar.finish();
    const files = this.#files?.finish() ?? null;
    if (this.#files !== null && this.#files.skipped > 0) {
      warnings.push(`${this.#files.skipped} sparse files are too large to be hashed`);
    }
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
        diffSha256: this.#diff?.digest() ?? null,
        files,
      },
      transfer: [...entries.transfer, columns.layerOffset.buffer, columns.bitOffset.buffer, columns.crc32.buffer],
    };
  }
}
