import { ErofsReader, TreeListing, writeErofs } from '../../src/erofs/index.js';
import { EntryColumns, TarParser } from '../../src/tar/index.js';
import { TreeBuilder } from '../../src/tree/index.js';

/** The merged tree of layers, as an index build makes it. */
export function treeOf(...layers: readonly Uint8Array[]): TreeListing {
  return new TreeListing(readerOf(...layers));
}

export function readerOf(...layers: readonly Uint8Array[]): ErofsReader {
  const builder = new TreeBuilder();
  const devices = layers.map((bytes, layer) => {
    const entries = new EntryColumns();
    const parser = new TarParser({ entries, data: () => {} });
    parser.push(bytes);
    parser.finish();
    builder.applyLayer(layer, entries);
    return { tag: `${layer}`.padStart(64, '0'), blocks: Math.ceil(bytes.length / 512) };
  });
  return new ErofsReader(writeErofs(builder.finish(), devices).image);
}
