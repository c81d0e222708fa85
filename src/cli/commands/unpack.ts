import type { Command } from 'commander';
import { ClipError, counted } from '../../bytes/index.js';
import { locate } from '../daemon-flags.js';
import { addImageFlags, archiveOf, type ImageFlags, layerKeeper } from '../image-flags.js';
import { indexOldLayers } from '../old-layers.js';
import { archiveOrImage } from '../operand.js';
import { printNote, printResult } from '../output.js';
import { credentialsFrom } from '../registry-flags.js';
import { type StorageFlags, storageOverride } from '../storage-flags.js';
import { formatBytes, formatSeconds, shortDigest } from '../units.js';
import { interruptible } from './index-command.js';

async function run(directory: string, flags: ImageFlags & Pick<StorageFlags, 'storageImage'>): Promise<void> {
  const result = await interruptible(async (signal) => {
    const kept = await layerKeeper(flags);
    const path = await archiveOf(flags, signal, kept);
    await indexOldLayers(path, flags, signal);
    const [{ ArchiveFile, LayerIndexes, openImage }, { unpackArchive }, { createProgress }] = await Promise.all([
      import('../../check/index.js'),
      import('../../unpack/index.js'),
      import('../progress.js'),
    ]);
    const credentials = credentialsFrom(flags);
    const { cacheDir } = await locate(flags);
    const file = ArchiveFile.open(path, new LayerIndexes(cacheDir));
    if (file.archive.storage.kind !== 'oci') {
      file.close();
      kept.close();
      throw new ClipError('UNSUPPORTED', `${path} is of a directory and not of an image`, {
        hint: `unpack it with: clipctl extract --clip ${path} --out ${directory}`,
      });
    }
    const access = {
      ...(credentials === undefined ? {} : { credentials }),
      ...(flags.plainHttp === undefined ? {} : { plainHttp: flags.plainHttp }),
    };
    const { storageImage } = flags;
    const registry = await openImage(
      file.archive.image,
      access,
      storageOverride({ ...(storageImage === undefined ? {} : { storageImage }) }),
    );
    const source = kept.wrap(registry);
    const progress = await createProgress();
    try {
      return await unpackArchive({
        archive: file.archive,
        source,
        directory,
        signal,
        onProgress: ({ digest, done, total, rate }) => progress.update(digest, shortDigest(digest), done, total, rate),
      });
    } finally {
      progress.stop();
      await source.close();
      kept.close();
      file.close();
    }
  });
  if (result === undefined) {
    const { isUnfinished } = await import('../../unpack/index.js');
    if (isUnfinished(directory)) printNote('note', `the same command goes on with ${directory} where it was`);
    return;
  }
  printResult(result, flags.json === true, () => {
    const { files, fetchedBytes, milliseconds, resumed } = result;
    const how = resumed ? ', the rest of an earlier run' : '';
    return `${result.directory}: ${counted(files, 'file')}, ${formatBytes(fetchedBytes)} fetched in ${formatSeconds(milliseconds / 1000)}${how}`;
  });
}

export function registerUnpack(program: Command): void {
  const command = program
    .command('unpack')
    .description('make a directory of a whole image')
    .addArgument(archiveOrImage())
    .argument('<dir>', 'a new directory, or the half of an interrupted run')
    .option('--storage-image <ref>', 'fetch the layers from this image, not from the one that the archive names');
  addImageFlags(command).action(run);
}
