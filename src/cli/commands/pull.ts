import type { Command } from 'commander';
import { ClipError } from '../../bytes/index.js';
import { defaultArchive } from '../archive-or-image.js';
import type { CommonFlags } from '../common-flags.js';
import { sayingDockerHub } from '../docker-hub.js';
import { printNote, printResult } from '../output.js';
import { addRegistryFlags, credentialsFrom, type RegistryFlags } from '../registry-flags.js';
import { interruptible } from './index-command.js';

interface Flags extends RegistryFlags, CommonFlags {
  readonly out?: string;
  readonly platform?: string;
  readonly indexDigest?: string;
  readonly indexSource?: string;
}

async function run(
  reference: string,
  flags: Flags,
  signal: AbortSignal,
): Promise<{ path: string; reference: string; manifestDigest: string }> {
  const [{ openImageSource, parsePlatform }, { findRemoteArchive }] = await Promise.all([
    import('../../oci/index.js'),
    import('../../store/index.js'),
  ]);
  const credentials = credentialsFrom(flags);
  const out = flags.out ?? defaultArchive(reference);
  const options = {
    ...(credentials === undefined ? {} : { credentials }),
    ...(flags.plainHttp === undefined ? {} : { plainHttp: flags.plainHttp }),
  };
  const { createProgress, showBytes } = await import('../progress.js');
  const progress = await createProgress();
  const source = openImageSource(reference, options);
  try {
    const image = await source.resolve({
      ...(flags.platform === undefined ? {} : { platform: parsePlatform(flags.platform) }),
      signal,
      onWarning: (warning) => printNote('warning', warning),
    });
    const { indexDigest: pinned, indexSource = process.env.CLIP_INDEX_SOURCE || undefined } = flags;
    const find = { source: options, pinned, indexSource, signal, onNote: (note: string) => printNote('note', note) };
    const onFetched = showBytes(progress, reference, 'archive');
    const found = await findRemoteArchive(image, out, await source.artifacts(), { ...find, onFetched });
    if (!found) {
      throw new ClipError('NOT_FOUND', `no archive of ${image.reference} is kept with it`, {
        hint: `make one: clipctl index --image ${reference} --out ${out} --push`,
      });
    }
    return { path: out, reference: image.reference, manifestDigest: image.manifestDigest };
  } finally {
    progress.stop();
    await source.close();
  }
}

export function registerPull(program: Command): void {
  const command = program
    .command('pull')
    .description('fetch the archive that is kept beside an image in its registry')
    .argument('<image>', 'image in a registry')
    .option('-o, --out <file>', 'the archive to write (default: NAME.clip, by the name of the image)')
    .option('--index-digest <digest>', 'the only archive to take')
    .option('--index-source <place>', 'a further registry, HOST or HOST/NAME, to look in (default $CLIP_INDEX_SOURCE)')
    .option('--platform <os/arch>', "with a multi-platform image (default: this machine's)");
  addRegistryFlags(command).action(async (image: string, flags: Flags) => {
    const pulled = await interruptible((signal) => sayingDockerHub(image, () => run(image, flags, signal)));
    if (pulled !== undefined) {
      printResult(pulled, flags.json === true, () => `${pulled.path}: the archive of ${pulled.reference}`);
    }
  });
}
