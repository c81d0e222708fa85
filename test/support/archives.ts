import { createHash } from 'node:crypto';
import type { ArchiveContents, ArchiveInput, ImageMeta, LayerContents, LayerKind } from '../../src/archive/index.js';
import { encodeCheckpointState, NO_STATE } from '../../src/gzip/index.js';
import { stateDigests } from './span-layers.js';

export function digestOf(text: string): string {
  return `sha256:${createHash('sha256').update(text).digest('hex')}`;
}

/** An archive input over memory. */
export function bytesInput(bytes: Uint8Array, name = 'test.clip'): ArchiveInput {
  return { name, size: bytes.length, readAt: (offset, length) => bytes.subarray(offset, offset + length) };
}

/** Span columns and checkpoint states out of (inflated length, compressed bits) per span; content is invented. */
export function layerContents(kind: LayerKind, spans: readonly (readonly [number, number])[], seed = 1): LayerContents {
  const count = spans.length;
  const layerOffset = new Float64Array(count + 1);
  const bitOffset = new Float64Array(count + 1);
  spans.forEach(([length, bits], i) => {
    layerOffset[i + 1] = layerOffset[i]! + length;
    bitOffset[i + 1] = bitOffset[i]! + bits;
  });
  const crc32 = Uint32Array.from({ length: count }, (_, i) => Math.imul(i + seed, 0x9e3779b1) >>> 0);
  const sha256 = new Uint8Array(32 * count);
  for (let i = 0; i < count; i++) sha256.set(createHash('sha256').update(`${seed}/${i}`).digest(), 32 * i);
  const states = spans.map((_, i) => {
    if (i === 0 || kind !== 'gzip') return NO_STATE;
    return encodeCheckpointState(Uint8Array.of(0), new Uint8Array(5 + (i % 7)).fill(i + seed));
  });
  const stateSha256 = stateDigests(kind, states);
  return {
    spans: { kind, count, layerOffset, bitOffset, crc32, sha256, stateSha256 },
    states: states.map(({ stored }) => stored),
  };
}

export function imageMeta(layers: readonly LayerContents[]): ImageMeta {
  return {
    reference: '127.0.0.1:5000/test:latest',
    registry: '127.0.0.1:5000',
    repository: 'test',
    manifestDigest: digestOf('manifest'),
    platform: { os: 'linux', architecture: 'amd64' },
    config: { config: { Env: ['PATH=/bin'], Cmd: ['/bin/sh'] }, rootfs: { type: 'layers' } },
    layers: layers.map(({ spans }, i) => ({
      digest: digestOf(`layer ${i}`),
      mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
      size: Math.ceil(spans.bitOffset[spans.count]! / 8) + 8,
      diffId: digestOf(`diff ${i}`),
      uncompressedSize: spans.layerOffset[spans.count]!,
    })),
  };
}

/** Every section, three layers of which two are the same. */
export function smallArchive(): ArchiveContents {
  const gzip = layerContents('gzip', [
    [2_097_152, 5_000_003],
    [2_097_153, 4_999_997],
    [1024, 4096],
  ]);
  const tar = layerContents('tar', [[10_240, 81_920]], 9);
  const layers = [gzip, tar, gzip];
  const tree = new Uint8Array(4096);
  for (let i = 0; i < tree.length; i++) tree[i] = (i * i) >> 7;
  return {
    image: imageMeta(layers),
    tree,
    layers,
    hashes: { count: 2, nid: Float64Array.of(36, 40), sha256: new Uint8Array(64).fill(0xab) },
    placement: {
      count: 2,
      nid: Float64Array.of(36, 36),
      fileOffset: Float64Array.of(0, 2 ** 42),
      length: Float64Array.of(100, 7),
      layer: Uint32Array.of(0, 1),
      layerOffset: Float64Array.of(513, 10_000),
    },
    profile: { source: 'recorded', layer: Uint32Array.of(0, 1, 0), span: Uint32Array.of(2, 0, 1) },
    references: {
      count: 3,
      nid: Float64Array.of(36, 40, 4_000_000),
      firstTarget: Uint32Array.of(0, 2, 2, 4),
      target: Uint32Array.of(2, 1, 0, 1),
      firstRange: Uint32Array.of(0, 0, 4, 4),
      range: Uint32Array.of(0, 3, 900, 1),
    },
  };
}
