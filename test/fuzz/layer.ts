// Fuzz target: the index of a layer, as a cache directory or a registry may hold it, up to the archive that is put together from it.
import { readImageMeta } from '../../src/archive/index.js';
import { ClipError } from '../../src/bytes/index.js';
import { ErofsReader, TreeListing, writeErofs } from '../../src/erofs/index.js';
import { LayerDigester } from '../../src/index/layer-digester.js';
import { decodeLayerIndex, encodeLayerIndex } from '../../src/index/layer-index.js';
import { elfFiles, linkReferences, readNames, staticProfile } from '../../src/startup/index.js';
import { EntryColumns } from '../../src/tar/index.js';
import { TreeBuilder } from '../../src/tree/index.js';
import { bytesInput } from '../support/archives.js';
import { sha256 } from '../support/layout.js';
import * as t from '../support/tar.js';

export { mutate } from './clip.js';

/** Trees larger than this come of forged sizes; they are legal, but slow to check. */
const MAX_IMAGE = 8 << 20;
export const mutationsInTests = 150;

async function indexOf(tar: Uint8Array, hashes: boolean): Promise<Uint8Array> {
  const digester = new LayerDigester(hashes);
  digester.boundary(0, 0);
  digester.output(tar, -1);
  digester.boundary(tar.length, 8 * tar.length);
  digester.blob(tar);
  const { result } = digester.finish({ kind: 'tar', warnings: ['a warning'] });
  const names: Parameters<typeof readNames>[1] = [];
  readNames(result.names, names);
  const layer = {
    contents: { spans: result.spans, states: result.states },
    entries: EntryColumns.fromTransfer(result.entries),
    uncompressedSize: tar.length,
    files: result.files,
    diffId: hashes ? sha256(tar) : null,
    references: result.references,
    names,
    warnings: result.warnings,
  };
  return Buffer.concat(await encodeLayerIndex({ digest: sha256(tar), size: tar.length, checkpointMiB: 1 }, layer));
}

/** 64-bit little-endian ELF with an interpreter: a header, one program header, a path. */
function elf(): Uint8Array {
  const bytes = Buffer.alloc(160);
  bytes.write('\x7fELF\x02\x01\x01', 'latin1');
  bytes.writeBigUInt64LE(64n, 32);
  bytes.writeUInt16LE(56, 54);
  bytes.writeUInt16LE(1, 56);
  bytes.writeUInt32LE(3, 64);
  bytes.writeBigUInt64LE(120n, 72);
  bytes.writeBigUInt64LE(8n, 96);
  bytes.write('/lib/ld\0', 120);
  return bytes;
}

export async function corpus(): Promise<Uint8Array[]> {
  const plain = t.tar(
    t.dir('lib'),
    t.file('lib/ld', elf(), { mode: 0o755 }),
    t.symlink('bin', 'lib'),
    t.file('run', '#!/lib/ld -x\n', { mode: 0o755 }),
    t.file('a.py', 'import b\n'),
    t.file('b.py', 'from a import x\n'),
    t.file('c.js', "require('./d')\n"),
    t.file('d/package.json', '{"main":"e","exports":{".":["./e.js"]}}'),
    t.file('d/e.js', "import '../c.js'\n"),
    t.hardLink('again', 'run'),
  );
  const odd = t.tar(
    t.gnuSparse('sparse', 1_000_000, [[4096, Buffer.from('data')]]),
    t.pax({ 'SCHILY.xattr.user.a': 'one' }),
    t.file('x', 'with xattrs', { mtime: '-1.5' }),
    t.whiteout('gone'),
    t.char('c', 5, 300),
  );
  return [await indexOf(plain, false), await indexOf(odd, true), await indexOf(t.tar(), false)];
}

/** Does what an index build does with the index of a layer. */
export function execute(input: Uint8Array): string | undefined {
  try {
    const meta = readImageMeta(bytesInput(input)).layers[0];
    if (meta === undefined) return 'no layer';
    const { digest, size } = meta;
    const layer = decodeLayerIndex(input, 'fuzz', { digest, size, checkpointMiB: 1, hashes: false });
    if (layer === null) return 'of another version';
    const builder = new TreeBuilder();
    builder.applyLayer(0, layer.entries);
    const blocks = Math.ceil(layer.uncompressedSize / 512);
    const { image: tree, placement } = writeErofs(builder.finish(), [{ tag: digest.slice(7), blocks }]);
    if (tree.length > MAX_IMAGE) return 'a large tree';
    const reader = new ErofsReader(tree);
    const listing = new TreeListing(reader);
    const image = {
      ...{ reference: '', registry: '', repository: '', manifestDigest: digest },
      platform: { os: 'linux', architecture: 'amd64' },
      config: { config: { Entrypoint: ['/run'] } },
      layers: [meta],
    };
    const elf = elfFiles(reader, listing, placement, [layer]);
    const references = linkReferences(image, listing, elf, [layer]);
    const profile = staticProfile(image, reader, placement, [layer]);
    return `${layer.entries.count} ${references?.count ?? '-'} ${profile?.span.length ?? '-'}`;
  } catch (error) {
    if (!(error instanceof ClipError)) throw error;
    return error.message.replace(/\d+/g, '#').slice(0, 80);
  }
}
