import type { Command } from 'commander';
import type { Archive } from '../../archive/index.js';
import { locate } from '../daemon-flags.js';
import { addImageFlags, archiveOf, type ImageFlags } from '../image-flags.js';
import { printResult } from '../output.js';

function describe(archive: Archive, path: string, size: number, inodes: number): object {
  const { image } = archive;
  const layers = image.layers.map((meta, i) => {
    const { table } = archive.layers[i]!;
    let windowBytes = 0;
    let windows = 0;
    let longest = 0;
    for (let s = 0; s < table.count; s++) {
      windowBytes += table.windowLength[s]!;
      if (table.windowLength[s]! > 0) windows++;
      longest = Math.max(longest, Math.ceil((table.bitOffset[s + 1]! - table.bitOffset[s]!) / 8));
    }
    return {
      ...meta,
      kind: table.kind,
      spans: table.count,
      longestSpan: longest,
      windows,
      windowBytes,
      meanWindow: windows === 0 ? 0 : Math.round(windowBytes / windows),
    };
  });
  return {
    path,
    size,
    version: archive.version,
    storage: archive.storage,
    unindexed: archive.unindexed,
    identity: archive.identity,
    reference: image.reference,
    registry: image.registry,
    repository: image.repository,
    manifestDigest: image.manifestDigest,
    platform: image.platform,
    config: (image.config.config ?? {}) as object,
    inodes,
    fusePlaneOnly: archive.placement !== null,
    hashes: archive.sections.some((section) => section.name === 'hashes'),
    profile: archive.profile === null ? null : { source: archive.profile.source, spans: archive.profile.span.length },
    sections: archive.sections.map(({ name, offset, storedLength, rawLength, compression, sha256 }) => {
      return { name, offset, storedLength, rawLength, compression, sha256: Buffer.from(sha256).toString('hex') };
    }),
    layers,
  };
}

async function run(flags: ImageFlags): Promise<void> {
  const [{ ArchiveFile, LayerIndexes }, { ErofsReader }, { formatBytes, formatTable, shortDigest }, { s3Name }] =
    await Promise.all([
      import('../../check/index.js'),
      import('../../erofs/index.js'),
      import('../units.js'),
      import('../../s3/index.js'),
    ]);
  const clip = await archiveOf(flags);
  const { cacheDir } = await locate(flags);
  const file = ArchiveFile.open(clip, new LayerIndexes(cacheDir));
  try {
    const { archive } = file;
    const { inodeCount } = new ErofsReader(archive.tree);
    const value = describe(archive, file.path, file.size, inodeCount);
    printResult(value, flags.json === true, () => {
      const { image } = archive;
      const { os, architecture, variant } = image.platform;
      const facts = [
        ['archive', `${file.path}, ${formatBytes(file.size)}, version ${archive.version}`],
        ['identity', archive.identity],
        ...(archive.storage.kind === 'oci'
          ? [
              ['image', image.reference],
              ['manifest', image.manifestDigest],
              ['platform', [os, architecture, variant].filter(Boolean).join('/')],
            ]
          : [['data', archive.storage.kind === 'local' ? 'in this file' : `in ${s3Name(archive.storage)}`]]),
        ...(archive.unindexed.length === 0 ? [] : [['layers', 'not indexed yet: the first mount does it']]),
        ['files', String(inodeCount)],
        [
          'profile',
          archive.profile === null ? 'none' : `${archive.profile.source}, ${archive.profile.span.length} spans`,
        ],
        ...(archive.placement === null ? [] : [['placement', `${archive.placement.count} extents: FUSE plane only`]]),
      ];
      const sections = archive.sections.map((s) => {
        return [`  ${s.name}`, String(s.offset), formatBytes(s.storedLength), formatBytes(s.rawLength), s.compression];
      });
      const layers = archive.layers.map(({ table }, i) => {
        const meta = image.layers[i]!;
        const windows = table.windowLength.filter((length) => length > 0);
        const total = windows.reduce((sum, length) => sum + length, 0);
        const mean = windows.length === 0 ? 0 : Math.round(total / windows.length);
        const sizes = [formatBytes(meta.size), formatBytes(meta.uncompressedSize)];
        return [
          `  ${shortDigest(meta.digest)}`,
          table.kind,
          ...sizes,
          String(table.count),
          formatBytes(total),
          formatBytes(mean),
        ];
      });
      return [
        formatTable(facts),
        // Version 1 has none.
        ...(sections.length === 0
          ? []
          : [formatTable([['section', 'offset', 'stored', 'raw', ''], ...sections], [1, 2, 3])]),
        formatTable([['layer', '', 'size', 'tar', 'spans', 'windows', 'mean window'], ...layers], [2, 3, 4, 5, 6]),
      ].join('\n');
    });
  } finally {
    file.close();
  }
}

export function registerInspect(program: Command): void {
  const command = program.command('inspect').description('show the contents of an archive');
  addImageFlags(command).action((flags: ImageFlags) => run(flags));
}
