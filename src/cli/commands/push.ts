import type { Command } from 'commander';
import { ClipError } from '../../bytes/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { addS3PlaceFlags, type S3PlaceFlags, s3PlaceOf } from '../image-flags.js';
import { Operand } from '../operand.js';
import { printResult } from '../output.js';
import { printPushed, pushArchive, pushArchiveToS3 } from '../push-archive.js';
import { addRegistryFlags, credentialsFrom, type RegistryFlags } from '../registry-flags.js';
import { s3CredentialsFrom } from '../storage-flags.js';
import { interruptible, layerIndexDirectory } from './index-command.js';

interface Flags extends RegistryFlags, S3PlaceFlags, CommonFlags {
  readonly clip: string;
  readonly layers?: boolean;
  readonly profiles?: boolean;
}

export function registerPush(program: Command): void {
  const command = program
    .command('push')
    .description('store an archive beside its image in the registry, where mounts of the image find it, or in S3')
    .addArgument(new Operand('file', 'the .clip archive (as --clip)', ['clip']))
    .argument(
      '[place]',
      "HOST/NAME of the image's repository (default: the one that the archive names), or s3://BUCKET/KEY",
    )
    .requiredOption('--clip <file>', 'the .clip archive')
    .option('--layers', 'the indexes of its layers, too, as far as this machine keeps them; not to S3')
    .option(
      '--profiles',
      'the profiles of its starts that this machine keeps, too: mounts elsewhere fetch by them; not to S3',
    );
  addS3PlaceFlags(addRegistryFlags(command)).action(async (to: string | undefined, flags: Flags) => {
    if (to?.startsWith('s3://')) {
      if (flags.layers === true || flags.profiles === true) {
        const [flag, what] = flags.layers === true ? ['--layers', 'indexes of layers'] : ['--profiles', 'profiles'];
        throw new ClipError('USAGE', `${flag} stores ${what} in a registry, not in S3`, { hint: `leave ${flag} out` });
      }
      const options = { ...s3PlaceOf(flags), credentials: s3CredentialsFrom(flags) };
      const pushed = await interruptible((signal) => pushArchiveToS3(flags.clip, to, options, signal));
      if (pushed !== undefined) printResult(pushed, flags.json === true, () => printPushed(pushed));
      return;
    }
    const credentials = credentialsFrom(flags);
    const options = {
      ...(credentials === undefined ? {} : { credentials }),
      ...(flags.plainHttp === undefined ? {} : { plainHttp: flags.plainHttp }),
    };
    const pushedWith = {
      layerIndexDirectory: flags.layers === true ? await layerIndexDirectory(flags) : undefined,
      cacheDir: flags.profiles === true ? (await locate(flags)).cacheDir : undefined,
    };
    const pushed = await interruptible((signal) => pushArchive(flags.clip, to, options, signal, pushedWith));
    if (pushed !== undefined) printResult(pushed, flags.json === true, () => printPushed(pushed));
  });
}
