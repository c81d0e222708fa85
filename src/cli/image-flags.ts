import { type Command, Option } from 'commander';
import type { PullPolicy } from '../store/index.js';
import { addRegistryFlags, credentialsFrom, type RegistryFlags } from './commands/index-command.js';
import type { CommonFlags } from './common-flags.js';
import { locate } from './daemon-flags.js';
import { printNote } from './output.js';

/** The flags of a command that takes an archive: a file, or an image whose archive the store has or makes. */
export interface ImageFlags extends CommonFlags, RegistryFlags {
  readonly clip?: string;
  readonly image?: string;
  readonly pull?: PullPolicy;
  readonly indexDigest?: string;
  readonly platform?: string;
}

/** `--clip`, `--image` and how the image is found. */
export function addImageFlags(command: Command): Command {
  command
    .option('--clip <file>', 'the .clip archive')
    .option('--image <ref>', 'or an image, whose archive is taken from the store or made now');
  return addPullFlags(command);
}

export function addPullFlags(command: Command): Command {
  command
    .addOption(
      new Option(
        '--pull <when>',
        'with an image: when to ask the registry for its manifest (default: missing)',
      ).choices(['always', 'missing', 'never']),
    )
    .option('--index-digest <digest>', 'with an image: the only archive to take from its registry')
    .option('--platform <os/arch>', "with a multi-platform image (default: this machine's)");
  return addRegistryFlags(command);
}

export function warn(text: string): void {
  printNote('warning', text);
}

/** The archive that the flags name, made with progress on stderr if need be. */
export async function archiveOf(flags: ImageFlags, signal?: AbortSignal): Promise<string> {
  if (flags.clip !== undefined && flags.image === undefined) return flags.clip;
  const { resolveArchive } = await import('../store/index.js');
  const { cacheDir } = await locate(flags);
  const credentials = credentialsFrom(flags);
  let progress: import('./progress.js').Progress | null = null;
  let loading: Promise<void> | null = null;
  const onProgress = (layer: { digest: string; done: number; total: number; rate: number }): void => {
    loading ??= Promise.all([import('./progress.js'), import('./units.js')]).then(async ([{ createProgress }]) => {
      progress = await createProgress();
    });
    progress?.update(layer.digest, layer.digest.slice(0, 'sha256:'.length + 12), layer.done, layer.total, layer.rate);
  };
  try {
    const { path } = await resolveArchive({
      clip: flags.clip,
      image: flags.image,
      cacheDir,
      pull: flags.pull,
      platform: flags.platform,
      archiveDigest: flags.indexDigest,
      plainHttp: flags.plainHttp,
      credentials,
      signal,
      onProgress,
      onWarning: warn,
      onNote: (note) => printNote('note', note),
    });
    return path;
  } finally {
    await loading;
    (progress as { stop(): void } | null)?.stop();
  }
}
