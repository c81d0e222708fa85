import { createHash, type Hash } from 'node:crypto';
import { crc32 } from '../bytes/index.js';
import {
  type CheckpointState,
  encodeCheckpointState,
  type MemberTrailer,
  NO_STATE,
  OutputSums,
} from '../gzip/index.js';
import { NameLog, ReferenceScanner } from '../startup/index.js';
import { EntryColumns, TarParser } from '../tar/index.js';
import { NOT_SUMMED } from './decode-journal.js';
import { FileHasher } from './file-hasher.js';
import type { LayerResult } from './lane-protocol.js';
import type { DecodedLayer, RawState } from './layer-decoder.js';
import { SpanHasher } from './span-hasher.js';

/**
 * Makes the archive's record of a layer from the bytes of its blob and the output of a decoder: digests, sums, and the entries of the
 * tar. Pure: no threads, no I/O.
 */
export class LayerDigester {
  readonly #hasher = new SpanHasher();
  readonly #sums: OutputSums;
  readonly #layerOffsets: number[] = [];
  readonly #bitOffsets: number[] = [];
  readonly #crc32s: number[] = [];
  readonly #states: CheckpointState[] = [];
  readonly #entries = new EntryColumns();
  readonly #tar: TarParser;
  readonly #files: FileHasher | null;
  readonly #references: ReferenceScanner;
  readonly #names = new NameLog();
  readonly #diff: Hash | null;
  /** Of the tar, so far. */
  bytes = 0;

  /**
   * @param hashes  also compute the digest of the tar and of each file
   * @param sum     of the output, as crc32()
   */
  constructor(hashes: boolean, sum: (view: Uint8Array, previous: number) => number = crc32) {
    this.#sums = new OutputSums(sum);
    const entries = this.#entries;
    const files = hashes ? new FileHasher(entries) : null;
    this.#files = files;
    this.#diff = hashes ? createHash('sha256') : null;
    const references = new ReferenceScanner(entries, (entry, language, file) => this.#names.add(entry, language, file));
    this.#references = references;
    this.#tar = new TarParser({
      entries,
      data: (entry, view) => {
        files?.data(entry, view);
        references.data(entry, view);
      },
    });
  }

  /** The next bytes of the tar, and their CRC-32 or NOT_SUMMED. */
  output(view: Uint8Array, crc32: number): void {
    if (crc32 === NOT_SUMMED) this.#sums.push(view);
    else this.#sums.add(crc32, view.length);
    this.#diff?.update(view);
    this.bytes += view.length;
    this.#tar.push(view);
  }

  boundary(layerOffset: number, bitOffset: number): void {
    if (this.#layerOffsets.length > 0) this.#crc32s.push(this.#sums.endSpan());
    this.#layerOffsets.push(layerOffset);
    this.#bitOffsets.push(bitOffset);
    this.#hasher.boundary(bitOffset);
  }

  member(trailer: MemberTrailer): void {
    this.#sums.endMember(trailer);
  }

  state({ header, window }: RawState): void {
    this.#states.push(encodeCheckpointState(header, window));
  }

  /** The next bytes of the blob. Their output must have been given before. */
  blob(bytes: Uint8Array): void {
    this.#hasher.push(bytes);
  }

  /** The names found in files since the last call, for `readNames`. */
  takeNames(): string {
    return this.#names.take();
  }

  /** Throws FormatError when the tar is not complete. */
  finish({ kind, warnings }: DecodedLayer): { result: LayerResult; transfer: ArrayBuffer[] } {
    this.#tar.finish();
    const files = this.#files?.finish() ?? null;
    const references = this.#references.finish();
    const digests = this.#hasher.finish();
    const columns = {
      layerOffset: Float64Array.from(this.#layerOffsets),
      bitOffset: Float64Array.from(this.#bitOffsets),
      crc32: Uint32Array.from(this.#crc32s),
    };
    const count = columns.crc32.length;
    // Span 0 starts the layer and needs no state; one may follow the last span, for a boundary at the very end.
    const states = Array.from({ length: count }, (_, i) => this.#states[i - 1] ?? NO_STATE);
    const stateSha256 = new Uint8Array(kind === 'gzip' ? 32 * count : 0);
    if (kind === 'gzip') for (const [i, { sha256 }] of states.entries()) stateSha256.set(sha256, 32 * i);
    const entries = this.#entries.toTransfer();
    return {
      result: {
        type: 'result',
        spans: { kind, count, ...columns, sha256: digests.spans, stateSha256 },
        states: states.map(({ stored }) => stored),
        blobSha256: digests.blob,
        entries: entries.message,
        warnings,
        diffSha256: this.#diff?.digest() ?? null,
        files,
        references,
        names: this.takeNames(),
      },
      transfer: [
        ...entries.transfer,
        ...Object.values(columns).map((column) => column.buffer),
        ...states.filter((state) => state !== NO_STATE).map(({ stored }) => stored.buffer as ArrayBuffer),
      ],
    };
  }
}
