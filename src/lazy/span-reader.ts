import { createHash } from 'node:crypto';
import { type ImageMeta, type SpanColumns, stateDigest } from '../archive/index.js';
import { ClipError, crc32, FormatError } from '../bytes/index.js';
import { type CheckpointState, NO_STATE, SpanInflater } from '../gzip/index.js';
import type { ImageSource } from '../oci/index.js';
import { ZstdSpanInflater, ZstdStream } from '../zstd/index.js';

/** What it takes to read spans: an open archive, or one that is being made. */
export interface SpanLayers {
  readonly image: Pick<ImageMeta, 'layers'>;
  readonly layers: readonly { readonly table: SpanColumns }[];
  checkpointState(layer: number, span: number): Uint8Array | null;
}

/**
 * Reads spans of an archive's layers straight from the source, checked as a mount checks them: the digest of the compressed
 * bytes, then the CRC-32 of the inflated ones. For tools; mounts have lazy/.
 */
export class SpanReader {
  readonly #archive: SpanLayers;
  readonly #source: Pick<ImageSource, 'fetchInto'>;
  readonly #gzip = new SpanInflater();
  readonly #zstd = new ZstdSpanInflater();
  /** Of the sequential layer read last. */
  #stream: { layer: number; next: number; decoder: ZstdStream } | null = null;

  constructor(archive: SpanLayers, source: Pick<ImageSource, 'fetchInto'>) {
    this.#archive = archive;
    this.#source = source;
  }

  /** The span's bytes. @throws ClipError naming layer and span; DIGEST_MISMATCH or BAD_FORMAT when they are not right */
  async read(layer: number, span: number, signal?: AbortSignal): Promise<Uint8Array> {
    const { table } = this.#archive.layers[layer]!;
    if (table.kind === 'zstd-stream') {
      // Such a layer can only be read in order: what lies between is read for nothing.
      let stream = this.#stream;
      if (stream === null || stream.layer !== layer || stream.next > span) {
        stream = { layer, next: 0, decoder: new ZstdStream() };
        this.#stream = stream;
      }
      while (stream.next < span) await this.#inflate(layer, stream.next, signal);
    }
    return this.#inflate(layer, span, signal);
  }

  async #inflate(layer: number, span: number, signal: AbortSignal | undefined): Promise<Uint8Array> {
    const meta = this.#archive.image.layers[layer]!;
    const { table } = this.#archive.layers[layer]!;
    const what = `layer ${meta.digest}, span ${span}`;
    const startBit = table.bitOffset[span]!;
    const [start, end] = [Math.floor(startBit / 8), Math.ceil(table.bitOffset[span + 1]! / 8)];
    const compressed = new Uint8Array(end - start);
    await this.#source.fetchInto(meta.digest, start, compressed, { signal, size: meta.size });
    const expected = table.sha256.subarray(32 * span, 32 * span + 32);
    if (Buffer.compare(createHash('sha256').update(compressed).digest(), expected) !== 0) {
      throw new ClipError(
        'DIGEST_MISMATCH',
        `${what}: bytes ${start} to ${end} of the blob are not those that were indexed`,
      );
    }
    const length = table.layerOffset[span + 1]! - table.layerOffset[span]!;
    const output = new Uint8Array(length);
    let filled = 0;
    const take = (view: Uint8Array): void => {
      output.set(view, filled);
      filled += view.length;
    };
    const crc = this.#decode(layer, span, compressed, startBit % 8, length, take);
    if (crc !== table.crc32[span]) throw new FormatError(what, start, 'the CRC-32 of the inflated bytes differs');
    return output;
  }

  #state(layer: number, span: number): CheckpointState {
    const stored = this.#archive.checkpointState(layer, span) ?? NO_STATE.stored;
    return { stored, sha256: stateDigest(this.#archive.layers[layer]!.table, span) };
  }

  #decode(
    layer: number,
    span: number,
    compressed: Uint8Array,
    startBit: number,
    length: number,
    take: (view: Uint8Array) => void,
  ): number {
    switch (this.#archive.layers[layer]!.table.kind) {
      case 'tar':
        take(compressed);
        return crc32(compressed);
      case 'gzip':
        return this.#gzip.inflate(compressed, startBit, this.#state(layer, span), length, take);
      case 'zstd':
        return this.#zstd.inflate(compressed, length, take);
      case 'zstd-stream': {
        const stream = this.#stream!;
        const crc = stream.decoder.inflate(compressed, length, take);
        stream.next = span + 1;
        return crc;
      }
    }
  }
}
