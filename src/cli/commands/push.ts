import { readFileSync, statSync } from 'node:fs';
import type { Command } from 'commander';
import { ClipError } from '../../bytes/index.js';
import type { CommonFlags } from '../common-flags.js';
import { printResult } from '../output.js';
import { addRegistryFlags, credentialsFrom, interruptible, type RegistryFlags } from './index-command.js';

export interface PushFlags extends RegistryFlags, CommonFlags {
  readonly clip: string;
}

interface Pushed {
  readonly reference: string;
  readonly digest: string;
  readonly archiveDigest: string;
  readonly changed: boolean;
}

/** Stores an archive beside its image, or beside the same image elsewhere. */
export async function pushArchive(flags: PushFlags, to: string | undefined, signal: AbortSignal): Promise<Pushed> {
  const [{ readArchiveImage }, { digestOf, MAX_ARCHIVE_BYTES, openArtifacts, parseReference }] = await Promise.all([
    import('../../check/index.js'),
    import('../../oci/index.js'),
  ]);
  const image = readArchiveImage(flags.clip);
  const where = to === undefined ? image : parseReference(to);
  if (!('registry' in where) || where.registry === '') {
    throw new ClipError('USAGE', `${to ?? image.reference} is not in a registry`, {
      hint: 'name a repository: clipctl push --clip FILE HOST/NAME',
    });
  }
  const { registry, repository } = where;
  if (image.registry !== registry || image.repository !== repository) {
    const made = image.registry === '' ? image.repository : `${image.registry}/${image.repository}`;
    throw new ClipError('USAGE', `${flags.clip} fetches its layers from ${made}, not from ${registry}/${repository}`, {
      hint: `index the image there: clipctl index --image ${registry}/${repository}:TAG --out FILE --push`,
    });
  }

  if (statSync(flags.clip).size > MAX_ARCHIVE_BYTES) {
    throw new ClipError(
      'LIMIT',
      `${flags.clip} is larger than ${MAX_ARCHIVE_BYTES} bytes, the most that clip fetches again`,
    );
  }
  const bytes = readFileSync(flags.clip);
  const credentials = credentialsFrom(flags);
  const options = {
    ...(credentials === undefined ? {} : { credentials }),
    ...(flags.plainHttp === undefined ? {} : { plainHttp: flags.plainHttp }),
  };
  const artifacts = await openArtifacts({ registry, repository }, options, true);
  try {
    const { digest, tag, changed } = await artifacts.push(bytes, image.manifestDigest, signal);
    return { reference: `${registry}/${repository}:${tag}`, digest, archiveDigest: digestOf(bytes), changed };
  } finally {
    await artifacts.close();
  }
}

export function printPushed(pushed: Pushed): string {
  return `${pushed.reference}: ${pushed.changed ? 'pushed' : 'there already'}, archive ${pushed.archiveDigest}`;
}

export function registerPush(program: Command): void {
  const command = program
    .command('push')
    .description('store an archive beside its image in the registry, where mounts of the image find it')
    .argument('[repository]', "HOST/NAME of the image's repository (default: the one that the archive names)")
    .requiredOption('--clip <file>', 'the .clip archive');
  addRegistryFlags(command).action(async (to: string | undefined, flags: PushFlags) => {
    const pushed = await interruptible((signal) => pushArchive(flags, to, signal));
    if (pushed !== undefined) printResult(pushed, flags.json === true, () => printPushed(pushed));
  });
}
