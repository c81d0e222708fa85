import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { expect } from 'vitest';
import { type Archive, stateDigest } from '../../src/archive/index.js';
import { NO_STATE, SpanInflater } from '../../src/gzip/index.js';
import { ZstdSpanInflater, ZstdStream } from '../../src/zstd/index.js';

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/**
 * Reads every span of a layer on its own, as a mount would, and compares it with the tar it must be a piece of:
 * digest of the compressed bytes, output, CRC-32.
 */
export function checkLayer(archive: Archive, layer: number, blob: Uint8Array, tar: Uint8Array): void {
  const { table } = archive.layers[layer]!;
  const inflater = new SpanInflater();
  const stream = new ZstdStream();
  expect(archive.image.layers[layer]).toMatchObject({ size: blob.length, uncompressedSize: tar.length });
  expect(table.layerOffset[0]).toBe(0);
  expect(table.layerOffset[table.count]).toBe(tar.length);
  for (let i = 0; i < table.count; i++) {
    const [startBit, endBit] = [table.bitOffset[i]!, table.bitOffset[i + 1]!];
    const bytes = blob.subarray(Math.floor(startBit / 8), Math.ceil(endBit / 8));
    expect(sha256(bytes)).toBe(Buffer.from(table.sha256.subarray(32 * i, 32 * i + 32)).toString('hex'));
    const expected = tar.subarray(table.layerOffset[i], table.layerOffset[i + 1]);
    let output: Uint8Array = bytes;
    if (table.kind === 'gzip') {
      const pieces: Uint8Array[] = [];
      const stored = archive.checkpointState(layer, i) ?? NO_STATE.stored;
      const state = { stored, sha256: stateDigest(table, i) };
      const crc = inflater.inflate(bytes, startBit % 8, state, expected.length, (view) =>
        pieces.push(new Uint8Array(view)),
      );
      expect(crc).toBe(table.crc32[i]);
      output = Buffer.concat(pieces);
    } else if (table.kind !== 'tar') {
      const pieces: Uint8Array[] = [];
      const decoder = table.kind === 'zstd' ? new ZstdSpanInflater() : stream;
      decoder.inflate(bytes, expected.length, (view) => pieces.push(new Uint8Array(view)));
      output = Buffer.concat(pieces);
    }
    expect(Buffer.compare(output, expected)).toBe(0);
    expect(crc32(expected)).toBe(table.crc32[i]);
  }
}
