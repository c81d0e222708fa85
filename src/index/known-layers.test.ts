import { expect, test } from 'vitest';
import type { LayerArtifacts } from '../oci/index.js';
import { KnownLayers } from './known-layers.js';

const MIB = 1024 * 1024;

test('indexes of layers from a registry have a budget of memory for an image, whatever the registry says of their sizes', async () => {
  // 500 layers of a few bytes each, and an index of 100 MiB for each of them.
  const fetched: string[] = [];
  const warnings: string[] = [];
  const artifacts: LayerArtifacts = {
    fetchLayer: async (tag, _signal, admit) => {
      admit?.(100 * MIB);
      fetched.push(tag);
      return Buffer.from('not an archive');
    },
  };
  const known = new KnownLayers({
    directory: null,
    artifacts,
    fresh: false,
    checkpointMiB: 1,
    cuts: undefined,
    hashes: false,
    signal: undefined,
    onWarning: (warning) => warnings.push(warning),
  });
  const layers = Array.from({ length: 500 }, (_, i) => {
    const digest = `sha256:${i.toString(16).padStart(64, '0')}`;
    return { digest, diffId: digest, size: 100, mediaType: '' };
  });
  expect(await known.find(layers)).toEqual(new Map());
  expect(fetched).toHaveLength(1);
  expect(warnings).toContainEqual(expect.stringMatching(/indexes of layers in the registry exceed 134217728 bytes/));
  expect(warnings).toHaveLength(2); // one for all layers, and that of the index that is none
});
