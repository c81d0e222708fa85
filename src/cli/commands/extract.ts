import type { Command } from 'commander';
import { counted } from '../../bytes/index.js';
import type { CommonFlags } from '../common-flags.js';
import { archiveOf, warn } from '../image-flags.js';
import { Operand } from '../operand.js';
import { printResult } from '../output.js';
import { addS3Flags, type S3Flags, s3CredentialsFrom, storageOverride } from '../storage-flags.js';
import { interruptible } from './index-command.js';

interface Flags extends CommonFlags, S3Flags {
  readonly clip: string;
  readonly out: string;
  readonly skipUnsupported?: boolean;
}

async function run(flags: Flags): Promise<void> {
  const [{ extractArchive }, { createProgress, showBytes }, { formatBytes, formatSeconds }] = await Promise.all([
    import('../../pack/index.js'),
    import('../progress.js'),
    import('../units.js'),
  ]);
  const progress = await createProgress();
  const credentials = s3CredentialsFrom(flags);
  const archivePath = await archiveOf(flags);
  const result = await interruptible((signal) =>
    extractArchive({
      archivePath,
      outputPath: flags.out,
      skipUnsupported: flags.skipUnsupported,
      storageInfo: storageOverride(flags),
      credentials,
      signal,
      onProgress: showBytes(progress, flags.out, 'unpacking'),
      onWarning: warn,
    }).finally(() => progress.stop()),
  );
  if (result === undefined) return;
  printResult(result, flags.json === true, () => {
    const { outputPath, names, contentBytes, milliseconds } = result;
    return `${outputPath}: ${counted(names, 'name')}, ${formatBytes(contentBytes)}, every checksum right, in ${formatSeconds(milliseconds / 1000)}`;
  });
}

export function registerExtract(program: Command): void {
  const command = program
    .command('extract')
    .description('unpack an archive of version 1 into an empty directory, with owners, modes and times')
    .addArgument(new Operand('file', 'the archive (as --clip)', ['clip']))
    .addArgument(new Operand('dir', 'a directory that is empty or does not exist yet (as --out)', ['out']))
    .requiredOption('--clip <file>', 'the archive: local, or with its data in S3; or s3://BUCKET/KEY of an .rclip')
    .requiredOption('-o, --out <dir>', 'a directory that is empty or does not exist yet')
    .option('--skip-unsupported', 'leave out devices if they cannot be made (they need root), with a warning');
  addS3Flags(command).action((flags: Flags) => run(flags));
}
