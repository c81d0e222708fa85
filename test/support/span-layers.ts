import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import type { LayerKind, LayerMeta, SpanTable } from '../../src/archive/index.js';
import { ClipError, crc32 } from '../../src/bytes/index.js';
import { type CheckpointState, encodeCheckpointState, GzipIndexer, NO_STATE } from '../../src/gzip/index.js';
import type { BlobSource } from '../../src/lazy/index.js';
import { ZstdIndexer } from '../../src/zstd/index.js';

/** A layer with everything that LayerSet.open needs, and the bytes that it must return. */
export interface TestLayer {
  readonly raw: Uint8Array;
  readonly blob: Uint8Array;
  readonly meta: LayerMeta;
  readonly table: SpanTable;
  readState(span: number): Uint8Array | null;
}

/** Text-like bytes: they deflate to about a third and refer back across span boundaries. The same for the same seed. */
export function compressibleBytes(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  let x = seed * 2654435761;
  for (let i = 0; i < length; ) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    const run = (x >>> 24) % 24;
    const back = ((x >>> 8) % 20000) + 1;
    if (run > 8 && i > back) {
      for (let k = 0; k < run && i < length; k++, i++) bytes[i] = bytes[i - back]!;
    } else bytes[i++] = x >>> 13;
  }
  return bytes;
}

/** The stateSha256 column of a span table. */
export function stateDigests(kind: LayerKind, states: readonly CheckpointState[]): Uint8Array {
  return Uint8Array.from(kind === 'gzip' ? Buffer.concat(states.map(({ sha256 }) => sha256)) : []);
}

function finish(
  raw: Uint8Array,
  blob: Uint8Array,
  table: Omit<SpanTable, 'crc32' | 'sha256' | 'stateSha256'>,
  states: CheckpointState[],
): TestLayer {
  const { count, layerOffset, bitOffset } = table;
  const sha256 = new Uint8Array(32 * count);
  const crcs = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    const compressed = blob.subarray(Math.floor(bitOffset[i]! / 8), Math.ceil(bitOffset[i + 1]! / 8));
    sha256.set(createHash('sha256').update(compressed).digest(), 32 * i);
    crcs[i] = crc32(raw.subarray(layerOffset[i], layerOffset[i + 1]));
  }
  return {
    raw,
    blob,
    meta: {
      digest: `sha256:${createHash('sha256').update(blob).digest('hex')}`,
      mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
      size: blob.length,
      diffId: `sha256:${createHash('sha256').update(raw).digest('hex')}`,
      uncompressedSize: raw.length,
    },
    table: { ...table, crc32: crcs, sha256, stateSha256: stateDigests(table.kind, states) },
    readState: (span) => (states[span] === NO_STATE ? null : states[span]!.stored),
  };
}

/** A gzip layer as the indexer cuts it. */
export function gzipLayer(raw: Uint8Array, spanBytes: number, blob: Uint8Array = gzipSync(raw)): TestLayer {
  const layerOffset = [0];
  const bitOffset = [0];
  const states: CheckpointState[] = [NO_STATE];
  const indexer = new GzipIndexer(
    { spanBytes },
    {
      output: () => {},
      checkpoint: (c) => {
        layerOffset.push(c.layerOffset);
        bitOffset.push(c.bitOffset);
        states.push(encodeCheckpointState(c.header, c.window));
      },
      member: () => {},
    },
  );
  indexer.push(blob);
  const { compressedSize, layerSize } = indexer.finish();
  layerOffset.push(layerSize);
  bitOffset.push(compressedSize * 8);
  const count = states.length;
  return finish(
    raw,
    blob,
    {
      kind: 'gzip',
      count,
      layerOffset: Float64Array.from(layerOffset),
      bitOffset: Float64Array.from(bitOffset),
      windowPosition: new Float64Array(count),
      windowLength: Uint32Array.from(states, (s) => s.stored.length),
    },
    states,
  );
}

/** A zstd layer as the indexer cuts it: `zstd` when it has many frames, `zstd-stream` when it has one. */
export function zstdLayer(raw: Uint8Array, spanBytes: number, blob: Uint8Array): TestLayer {
  const layerOffset = [0];
  const bitOffset = [0];
  const indexer = new ZstdIndexer({ spanBytes });
  indexer.onBoundary = (offset, byteOffset) => {
    layerOffset.push(offset);
    bitOffset.push(byteOffset * 8);
  };
  indexer.push(blob, () => {});
  const { kind } = indexer.finish();
  const count = layerOffset.length - 1;
  return finish(
    raw,
    blob,
    {
      kind,
      count,
      layerOffset: Float64Array.from(layerOffset),
      bitOffset: Float64Array.from(bitOffset),
      windowPosition: new Float64Array(count),
      windowLength: new Uint32Array(count),
    },
    Array.from({ length: count }, () => NO_STATE),
  );
}

/** Debian's zstd: one frame for each of the parts. */
export function zstdFrames(parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(
    parts.map((input) =>
      execFileSync('zstd', ['-q', '-c', '-3'], { input, maxBuffer: 1 << 30, stdio: ['pipe', 'pipe', 'ignore'] }),
    ),
  );
}

/** An uncompressed layer, cut every `spanBytes`. */
export function tarLayer(raw: Uint8Array, spanBytes: number): TestLayer {
  const count = Math.ceil(raw.length / spanBytes);
  const layerOffset = Float64Array.from({ length: count + 1 }, (_, i) => Math.min(raw.length, i * spanBytes));
  return finish(
    raw,
    raw,
    {
      kind: 'tar',
      count,
      layerOffset,
      bitOffset: layerOffset.map((offset) => offset * 8),
      windowPosition: new Float64Array(count),
      windowLength: new Uint32Array(count),
    },
    Array.from({ length: count }, () => NO_STATE),
  );
}

export interface FakeRequest {
  readonly start: number;
  readonly end: number;
  aborted: boolean;
}

/** A registry in this process that records its requests, and misbehaves when told to. */
export class FakeSource implements BlobSource {
  readonly requests: FakeRequest[] = [];
  /** Bytes are passed through this before they leave. */
  tamper: (bytes: Uint8Array, start: number, request: number) => Uint8Array = (bytes) => bytes;
  /** Resolves when a request may begin to answer. */
  gate: (request: number) => Promise<void> | undefined = () => undefined;
  chunkBytes = 10_000;

  constructor(readonly blob: Uint8Array) {}

  async fetchInto(
    digest: string,
    start: number,
    target: Uint8Array,
    options: Parameters<BlobSource['fetchInto']>[3],
  ): Promise<void> {
    let filled = 0;
    const range = { start, end: start + target.length };
    for await (const chunk of await this.fetchBlob(digest, range, options)) {
      if (chunk.length > target.length - filled) throw new RangeError('more than was asked for');
      target.set(chunk, filled);
      filled += chunk.length;
      await options.onBytes?.(filled);
    }
    if (filled < target.length) throw new ClipError('NETWORK', `${filled} bytes of ${target.length} received`);
  }

  async fetchBlob(
    _digest: string,
    range: { start: number; end?: number },
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<AsyncIterable<Uint8Array>> {
    const { start, end = this.blob.length } = range;
    const number = this.requests.length;
    const request: FakeRequest = { start, end, aborted: false };
    this.requests.push(request);
    const { signal } = options;
    const bytes = this.tamper(Uint8Array.from(this.blob.subarray(start, end)), start, number);
    const gate = this.gate(number);
    const chunk = this.chunkBytes;
    return (async function* () {
      if (gate !== undefined) await Promise.race([gate, abortOf(signal)]);
      for (let at = 0; at < bytes.length; at += chunk) {
        await new Promise((resolve) => setImmediate(resolve));
        if (signal?.aborted) {
          request.aborted = true;
          throw signal.reason;
        }
        yield bytes.subarray(at, at + chunk);
      }
    })();
  }
}

function abortOf(signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => signal?.addEventListener('abort', () => resolve(), { once: true }));
}
