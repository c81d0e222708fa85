import type { ImageMeta, SpanColumns } from '../archive/index.js';
import type { LayerIndex, SpanIndex } from '../bytes/index.js';
import { ClipError, FormatError } from '../bytes/index.js';
import { NO_STATE } from '../gzip/index.js';
import { BlockSums, LayerSpans, type PartSum, partOf } from '../spans/index.js';
import type { ZstdStream } from '../zstd/index.js';
import { SpanDecoder, type SpanFault } from './span-decoder.js';
import type { BlobSource } from './types.js';

/** An open archive, or one that is being made. */
export interface SpanLayers {
  readonly image: Pick<ImageMeta, 'layers'>;
  readonly layers: readonly { readonly table: SpanColumns }[];
  checkpointState(layer: LayerIndex, span: SpanIndex): Uint8Array | null;
}

/**
 * Reads spans of an archive's layers straight from the source, checked as a mount checks them: the digest of the compressed
 * bytes, then the CRC-32 of the inflated ones. For tools; mounts have lazy/.
 */
export class SpanReader {
  readonly #archive: SpanLayers;
  readonly #source: Pick<BlobSource, 'fetchInto'>;
  readonly #decoder = new SpanDecoder();
  /** Of the sequential layer read last. */
  #stream: { layer: LayerIndex; next: number; decoder: ZstdStream } | null = null;
  /** Of layers of data blocks: what the parts of long ones add up to. */
  readonly #sums = new Map<number, BlockSums>();

  constructor(archive: SpanLayers, source: Pick<BlobSource, 'fetchInto'>) {
    this.#archive = archive;
    this.#source = source;
  }

  /** The span's bytes. @throws ClipError naming layer and span; DIGEST_MISMATCH or BAD_FORMAT when they are not right */
  async read(layer: LayerIndex, span: SpanIndex, signal?: AbortSignal): Promise<Uint8Array> {
    const { kind } = this.#archive.layers[layer]!.table;
    if (kind === 'zstd' || kind === 'zstd-stream') await this.#decoder.loadZstd();
    if (kind === 'zstd-stream') {
      // Such a layer can only be read in order: the spans before the wanted one are read for nothing.
      let stream = this.#stream;
      if (stream === null || stream.layer !== layer || stream.next > span) {
        stream = { layer, next: 0, decoder: this.#decoder.newStream() };
        this.#stream = stream;
      }
      while (stream.next < span) await this.#inflate(layer, stream.next, signal);
    }
    return this.#inflate(layer, span, signal);
  }

  /** A long data block is checked when its last part is read. @throws FormatError */
  #addPart(layer: LayerIndex, span: SpanIndex, spans: LayerSpans, part: PartSum | undefined): void {
    if (part === undefined) return;
    const sums = this.#sums.get(layer) ?? new BlockSums(spans.table);
    this.#sums.set(layer, sums);
    if (sums.add(span, part) === null) return;
    throw new FormatError(`layer ${spans.digest}, span ${span}`, spans.start(span), 'the CRC-64 of its block differs');
  }

  async #inflate(layer: LayerIndex, span: SpanIndex, signal: AbortSignal | undefined): Promise<Uint8Array> {
    const meta = this.#archive.image.layers[layer]!;
    const { table } = this.#archive.layers[layer]!;
    const spans = new LayerSpans(meta.digest, table);
    const start = spans.byteStart(span);
    const compressed = new Uint8Array(spans.byteEnd(span) - start);
    await this.#source.fetchInto(meta.digest, start, compressed, { signal, size: meta.size });
    const outLength = spans.length(span);
    const output = new Uint8Array(outLength);
    let filled = 0;
    const take = (view: Uint8Array): void => {
      output.set(view, filled);
      filled += view.length;
    };
    const of = { compressed, sha256: spans.sha256(span), outLength, crc32: spans.crc32(span) };
    let fault: SpanFault | null;
    if (table.kind === 'zstd-stream') {
      const stream = this.#stream!;
      fault = this.#decoder.decodeNext(stream.decoder, of, take);
      stream.next = span + 1;
    } else {
      const stored = this.#archive.checkpointState(layer, span) ?? NO_STATE.stored;
      const state = { stored, sha256: spans.stateSha256(span) };
      const blocks = spans.blocks(span);
      if (blocks !== null) this.#addPart(layer, span, spans, partOf(compressed, blocks));
      fault = this.#decoder.decode({ ...of, blocks, kind: table.kind, startBit: spans.startBit(span), state }, take);
    }
    if (fault === null) return output;
    const what = `layer ${meta.digest}, span ${span}`;
    if (fault.status === 'digest-mismatch') {
      throw new ClipError(
        'DIGEST_MISMATCH',
        `${what}: bytes ${start} to ${spans.byteEnd(span)} of the blob are not those that were indexed`,
      );
    }
    throw new FormatError(what, start, fault.detail);
  }
}
