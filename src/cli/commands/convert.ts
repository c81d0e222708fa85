import type { Command } from 'commander';
import type { CommonFlags } from '../common-flags.js';
import { warn } from '../image-flags.js';
import { printResult } from '../output.js';
import { addRegistryFlags, credentialsFrom, type RegistryFlags } from '../registry-flags.js';
import { interruptible } from './index-command.js';

interface Flags extends CommonFlags, RegistryFlags {
  readonly storageImage?: string;
}

async function run(old: string, made: string, flags: Flags): Promise<void> {
  const [{ convertArchive }, { createProgress }, { formatBytes, shortDigest }] = await Promise.all([
    import('../../pack/index.js'),
    import('../progress.js'),
    import('../units.js'),
  ]);
  const credentials = credentialsFrom(flags);
  const progress = await createProgress();
  const result = await interruptible((signal) =>
    convertArchive({
      archivePath: old,
      outputPath: made,
      imageRef: flags.storageImage,
      credentials,
      plainHttp: flags.plainHttp,
      signal,
      onProgress: ({ digest, done, total, rate }) => progress.update(digest, shortDigest(digest), done, total, rate),
      onWarning: warn,
    }).finally(() => progress.stop()),
  );
  if (result === undefined) return;
  printResult(result, flags.json === true, () => {
    return `${result.outputPath}: ${formatBytes(result.size)} for ${result.image.reference}`;
  });
}

export function registerConvert(program: Command): void {
  const command = program
    .command('convert')
    .description('make an archive of today out of an old one of an image, by indexing the image anew')
    .argument('<old>', 'an archive of version 1 of an image')
    .argument('<new>', 'the archive to write')
    .option('--storage-image <ref>', 'where the image is, if not where the old archive says');
  addRegistryFlags(command).action((old: string, made: string, flags: Flags) => run(old, made, flags));
}
