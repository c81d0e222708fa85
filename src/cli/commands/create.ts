import type { Command } from 'commander';
import { counted } from '../../bytes/index.js';
import type { CommonFlags } from '../common-flags.js';
import { warn } from '../image-flags.js';
import { Operand } from '../operand.js';
import { printResult } from '../output.js';
import { interruptible } from './index-command.js';

interface Flags extends CommonFlags {
  readonly out: string;
  readonly skipUnsupported?: boolean;
}

async function run(directory: string, flags: Flags): Promise<void> {
  const [{ createArchive }, { createProgress, showBytes }, { formatBytes, formatSeconds }] = await Promise.all([
    import('../../pack/index.js'),
    import('../progress.js'),
    import('../units.js'),
  ]);
  const progress = await createProgress();
  const result = await interruptible((signal) =>
    createArchive({
      inputPath: directory,
      outputPath: flags.out,
      skipUnsupported: flags.skipUnsupported,
      signal,
      onProgress: showBytes(progress, flags.out, 'packing'),
      onWarning: warn,
    }).finally(() => progress.stop()),
  );
  if (result === undefined) return;
  printResult(result, flags.json === true, () => {
    const { outputPath, size, nodes, contentBytes, milliseconds } = result;
    return `${outputPath}: ${formatBytes(size)}, ${counted(nodes, 'name')}, ${formatBytes(contentBytes)} of content, in ${formatSeconds(milliseconds / 1000)}`;
  });
}

export function registerCreate(program: Command): void {
  program
    .command('create')
    .description('pack a directory with its data into an archive of version 1, which the Go program reads too')
    .argument('<dir>', 'the directory')
    .addArgument(new Operand('file', 'the archive to write (as --out)', ['out']))
    .requiredOption('-o, --out <file>', 'the archive to write')
    .option('--skip-unsupported', 'leave out what the format cannot hold (extended attributes), with a warning')
    .action((directory: string, flags: Flags) => run(directory, flags));
}
