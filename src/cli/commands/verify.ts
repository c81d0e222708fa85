import type { Command } from 'commander';
import { ClipError } from '../../bytes/index.js';
import { printResult } from '../output.js';
import { addRegistryFlags, credentialsFrom, interruptible, type RegistryFlags } from './index-command.js';

interface Flags extends RegistryFlags {
  readonly clip: string;
  readonly json?: boolean;
}

async function run(flags: Flags): Promise<void> {
  const credentials = credentialsFrom(flags);
  const [{ openArchiveFile, verifyArchive }, { sourceForArchive }, { createProgress }, { formatBytes, shortDigest }] =
    await Promise.all([
      import('../../index/index.js'),
      import('../../oci/index.js'),
      import('../progress.js'),
      import('../units.js'),
    ]);
  const file = openArchiveFile(flags.clip);
  const { archive } = file;
  const source = sourceForArchive(archive.image, {
    ...(credentials === undefined ? {} : { credentials }),
    ...(flags.plainHttp === undefined ? {} : { plainHttp: flags.plainHttp }),
  });
  const progress = await createProgress();
  try {
    const result = await interruptible((signal) =>
      verifyArchive(archive, source, {
        signal,
        onProgress: ({ digest, done, total, rate }) => progress.update(digest, shortDigest(digest), done, total, rate),
      }).finally(() => progress.stop()),
    );
    if (result === undefined) return;
    printResult({ path: file.path, identity: archive.identity, ...result }, flags.json === true, () => {
      const { layers, spans, compressedBytes, files, problems } = result;
      const hashed = archive.sections.some((s) => s.name === 'hashes') ? `, ${files} files` : '';
      const extent = `${layers} layer${layers === 1 ? '' : 's'}, ${spans} spans (${formatBytes(compressedBytes)})${hashed}`;
      if (problems.length === 0) return `${file.path}: ${extent}: all as indexed`;
      return [
        ...problems.map((problem) => `  ${problem}`),
        `${file.path}: ${extent}: ${problems.length} problems`,
      ].join('\n');
    });
    if (result.problems.length > 0) {
      throw new ClipError(
        'DIGEST_MISMATCH',
        `${flags.clip}: ${result.problems.length} spans or files are not as indexed`,
        {
          hint: 'the layers were altered where they are kept: push the image again',
        },
      );
    }
  } finally {
    progress.stop();
    await source.close();
    file.close();
  }
}

export function registerVerify(program: Command): void {
  const command = program
    .command('verify')
    .description('check every span and every file hash of an archive against the registry')
    .requiredOption('--clip <file>', 'the archive');
  addRegistryFlags(command)
    .option('--json', 'print the result as JSON')
    .option('--verbose', 'say more')
    .action((flags: Flags) => run(flags));
}
