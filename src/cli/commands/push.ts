import type { Command } from 'commander';
import type { CommonFlags } from '../common-flags.js';
import { printResult } from '../output.js';
import { printPushed, pushArchive } from '../push-archive.js';
import { addRegistryFlags, credentialsFrom, interruptible, type RegistryFlags } from './index-command.js';

interface Flags extends RegistryFlags, CommonFlags {
  readonly clip: string;
}

export function registerPush(program: Command): void {
  const command = program
    .command('push')
    .description('store an archive beside its image in the registry, where mounts of the image find it')
    .argument('[repository]', "HOST/NAME of the image's repository (default: the one that the archive names)")
    .requiredOption('--clip <file>', 'the .clip archive');
  addRegistryFlags(command).action(async (to: string | undefined, flags: Flags) => {
    const credentials = credentialsFrom(flags);
    const options = {
      ...(credentials === undefined ? {} : { credentials }),
      ...(flags.plainHttp === undefined ? {} : { plainHttp: flags.plainHttp }),
    };
    const pushed = await interruptible((signal) => pushArchive(flags.clip, to, options, signal));
    if (pushed !== undefined) printResult(pushed, flags.json === true, () => printPushed(pushed));
  });
}
