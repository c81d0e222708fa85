import type { Command } from 'commander';
import { ClipError } from '../../bytes/index.js';
import type { CommonFlags } from '../common-flags.js';
import { Operand } from '../operand.js';
import { printResult } from '../output.js';
import { addS3Flags, type S3Flags, s3CredentialsFrom } from '../storage-flags.js';
import { interruptible } from './index-command.js';

interface Flags extends CommonFlags, S3Flags {
  readonly clip: string;
  readonly out: string;
}

async function run(flags: Flags): Promise<void> {
  if (flags.s3Bucket === undefined) throw new ClipError('USAGE', '--s3-bucket names the bucket to upload to');
  const [{ storeS3 }, { createProgress, showBytes }, { formatBytes, formatSeconds }] = await Promise.all([
    import('../../pack/index.js'),
    import('../progress.js'),
    import('../units.js'),
  ]);
  const { s3Bucket: bucket, s3Key: key, s3Region: region, s3Endpoint: endpoint } = flags;
  const credentials = s3CredentialsFrom(flags);
  const progress = await createProgress();
  const result = await interruptible((signal) =>
    storeS3({
      archivePath: flags.clip,
      outputPath: flags.out,
      storageInfo: {
        bucket,
        ...(key === undefined ? {} : { key }),
        ...(region === undefined ? {} : { region }),
        ...(endpoint === undefined ? {} : { endpoint }),
      },
      credentials,
      signal,
      onProgress: showBytes(progress, flags.out, 'uploading'),
    }).finally(() => progress.stop()),
  );
  if (result === undefined) return;
  printResult(result, flags.json === true, () => {
    const { outputPath, location, objectSize, milliseconds } = result;
    return `${outputPath}: ${formatBytes(objectSize)} in s3://${location.bucket}/${location.key}, in ${formatSeconds(milliseconds / 1000)}`;
  });
}

export function registerStore(program: Command): void {
  const command = program
    .command('store')
    .description('upload a local archive of version 1 to S3, and write the .rclip that mounts from there')
    .addArgument(new Operand('file', 'the archive (as --clip)', ['clip']))
    .addArgument(new Operand('rclip', 'the .rclip to write (as --out)', ['out']))
    .requiredOption('--clip <file>', 'the archive')
    .requiredOption('-o, --out <file>', 'the .rclip to write');
  addS3Flags(command).action((flags: Flags) => run(flags));
}
