import type { Command } from 'commander';
import { counted, printable } from '../../bytes/index.js';
import { locate } from '../daemon-flags.js';
import { addImageFlags, archiveOf, type ImageFlags } from '../image-flags.js';
import { archiveOrImage } from '../operand.js';
import { printResult } from '../output.js';

async function run(flags: ImageFlags): Promise<void> {
  const [{ ArchiveFile, LayerIndexes }, { describeArchive }, { formatBytes, formatTable, shortDigest }, { s3Name }] =
    await Promise.all([
      import('../../check/index.js'),
      import('../../archives/index.js'),
      import('../units.js'),
      import('../../s3/index.js'),
    ]);
  const clip = await archiveOf(flags);
  const { cacheDir } = await locate(flags);
  const file = ArchiveFile.open(clip, new LayerIndexes(cacheDir));
  try {
    const { archive } = file;
    const value = describeArchive(archive, file.path, file.size);
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
        ['files', String(value.inodes)],
        [
          'profile',
          archive.profile === null
            ? 'none'
            : `${archive.profile.source}, ${counted(archive.profile.span.length, 'span')}`,
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
          String(value.layers[i]!.files),
          formatBytes(value.layers[i]!.fileBytes),
        ];
      });
      return [
        formatTable(facts),
        // Version 1 has none.
        ...(sections.length === 0
          ? []
          : [formatTable([['section', 'offset', 'stored', 'raw', ''], ...sections], [1, 2, 3])]),
        formatTable(
          [['layer', '', 'size', 'tar', 'spans', 'windows', 'mean', 'files', 'in files'], ...layers],
          [2, 3, 4, 5, 6, 7, 8],
        ),
        ...(value.largest.length === 0
          ? []
          : [
              formatTable(
                [
                  ['largest', ''],
                  ...value.largest.map(({ path, size }) => [`  ${formatBytes(size)}`, printable(path)]),
                ],
                [0],
              ),
            ]),
      ].join('\n');
    });
  } finally {
    file.close();
  }
}

export function registerInspect(program: Command): void {
  const command = program
    .command('inspect')
    .description('show the contents of an archive')
    .addArgument(archiveOrImage());
  addImageFlags(command).action((flags: ImageFlags) => run(flags));
}
