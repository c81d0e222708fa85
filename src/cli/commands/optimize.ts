import { readFileSync } from 'node:fs';
import { type Command, Option } from 'commander';
import type { Archive } from '../../archive/index.js';
import type { OptimizeResult } from '../../archives/index.js';
import { ClipError, counted } from '../../bytes/index.js';
import type { RecordedProfile } from '../../lazy/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { addS3PlaceFlags, archiveOf, type S3PlaceFlags } from '../image-flags.js';
import { wholeNumber } from '../numbers.js';
import { archiveOrImage } from '../operand.js';
import { printNote, printResult } from '../output.js';
import { addRegistryFlags, credentialsFrom, type RegistryFlags } from '../registry-flags.js';
import { formatBytes } from '../units.js';
import { interruptible } from './index-command.js';

interface Flags extends RegistryFlags, S3PlaceFlags, CommonFlags {
  readonly clip?: string;
  readonly image?: string;
  readonly profile?: string;
  readonly out?: string;
  readonly storageImage?: string;
  readonly platform?: string;
  readonly checkpoint?: number;
  readonly shape: boolean;
  readonly unsafeChroot?: boolean;
  readonly net?: 'host' | 'none';
  readonly contentCache?: string;
}

function readProfile(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new ClipError('NOT_FOUND', `cannot read profile ${path}: ${(cause as NodeJS.ErrnoException).code}`, {
      cause,
      hint: 'clipctl profile ls lists the profiles that were kept',
    });
  }
}

async function run(flags: Flags, command: readonly string[]): Promise<void> {
  const { clip, image, profile, out } = flags;
  const { checkpointBytes } = await import('../../index/index.js');
  checkpointBytes(flags.checkpoint); // refused before a run is recorded
  if (image !== undefined && out !== undefined && clip === undefined && profile === undefined && command.length > 0) {
    await optimizeImage(flags, image, out, command);
  } else if (clip !== undefined && image === undefined && command.length === 0) {
    const { profile: _, ...place } = flags;
    const path = await archiveOf(place);
    if (path !== clip && out === undefined) {
      throw new ClipError('USAGE', `${clip} is not replaced`, { hint: '--out FILE names the archive to write' });
    }
    const archive = await openArchive(path);
    const recorded =
      profile === undefined ? await knownProfile(archive, flags) : await givenProfile(profile, archive, clip);
    const result = await interruptible((signal) => rewrite(flags, archive, recorded, out ?? clip, signal));
    if (result !== undefined) report(result, flags, clip);
  } else {
    throw new ClipError(
      'USAGE',
      'optimize takes --clip FILE [--profile P] [--out F2], or --image REF --out F -- CMD…',
      {
        hint: 'clipctl help optimize explains them',
      },
    );
  }
}

async function givenProfile(path: string, archive: Archive, clip: string): Promise<RecordedProfile> {
  const [{ parseProfile }, { checkBelongs }] = await Promise.all([
    import('../../lazy/index.js'),
    import('../../archives/index.js'),
  ]);
  const recorded = parseProfile(readProfile(path), path);
  checkBelongs(recorded, archive, path, clip);
  return recorded;
}

/** What starts of the image's own command have read, on this machine or on others. */
async function knownProfile(archive: Archive, flags: Flags): Promise<RecordedProfile> {
  const [{ ProfileStore, startName }, { ContentTier, openContentCache }, { Metrics, silentLogger }, { openImage }] =
    await Promise.all([
      import('../../lazy/index.js'),
      import('../../cache/index.js'),
      import('../../metrics/index.js'),
      import('../../check/index.js'),
    ]);
  const content = flags.contentCache === undefined ? null : new ContentTier(openContentCache(flags.contentCache));
  try {
    const { cacheDir } = await locate(flags);
    const { image } = archive;
    const store = new ProfileStore(cacheDir, { content }, silentLogger(), new Metrics());
    const name = startName(image);
    const found = await store.best(name, image, async (command, limit, signal) => {
      const source = await openImage(image, { credentials: credentialsFrom(flags), plainHttp: flags.plainHttp });
      try {
        return (await (await source.artifacts())?.fetchProfile(image.manifestDigest, command, limit, signal)) ?? null;
      } finally {
        await source.close();
      }
    });
    if (found !== null) return found;
    throw new ClipError(
      'NOT_FOUND',
      `no profile of ${archive.image.reference} is known: ${store.path(name)} is not there`,
      {
        hint: 'mount it and run the program; --content-cache names where other machines share theirs, --profile a file',
      },
    );
  } finally {
    await content?.close();
  }
}

async function optimizeImage(flags: Flags, image: string, out: string, command: readonly string[]): Promise<void> {
  const [{ recordRun }, { createProgress }, { showIndexing }] = await Promise.all([
    import('../record-run.js'),
    import('../progress.js'),
    import('../index-progress.js'),
  ]);
  const credentials = credentialsFrom(flags);
  const { plainHttp, platform } = flags;
  const result = await interruptible(async (signal) => {
    const { unsafeChroot, net } = flags;
    const progress = await createProgress();
    const recorded = await recordRun({
      ...{ imageRef: image, credentials, plainHttp, platform, command, unsafeChroot, net, signal },
      onProgress: showIndexing(progress),
      onIndexed: () => progress.stop(),
    }).finally(() => progress.stop());
    return rewrite(flags, recorded.archive, recorded.profile, out, signal);
  });
  if (result !== undefined) report(result, flags, 'equal length');
}

async function openArchive(path: string): Promise<Archive> {
  const { ArchiveFile } = await import('../../check/index.js');
  const opened = ArchiveFile.open(path);
  opened.close();
  return opened.archive;
}

async function rewrite(
  flags: Flags,
  archive: Archive,
  profile: RecordedProfile,
  out: string,
  signal: AbortSignal,
): Promise<OptimizeResult> {
  const [{ rewriteArchive }, { createProgress }, { showIndexing }] = await Promise.all([
    import('../../archives/index.js'),
    import('../progress.js'),
    import('../index-progress.js'),
  ]);
  const progress = await createProgress();
  return rewriteArchive(archive, profile, out, {
    shape: flags.shape,
    checkpointMiB: flags.checkpoint,
    storageImageRef: flags.storageImage,
    credentials: credentialsFrom(flags),
    plainHttp: flags.plainHttp,
    signal,
    onProgress: showIndexing(progress),
    onWarning: (warning) => printNote('warning', warning),
  }).finally(() => progress.stop());
}

function report(value: OptimizeResult, flags: Flags, before: string): void {
  printResult(value, flags.json === true, () =>
    [
      `${value.path}: ${formatBytes(value.size)}; the profile fetches ${formatBytes(value.profileBytes)} in ${counted(value.spans, 'span')}`,
      `(${formatBytes(value.unshapedProfileBytes)} with the spans of ${before})`,
    ].join(' '),
  );
}

export function registerOptimize(program: Command): void {
  const command = program
    .command('optimize')
    .description('index an image again, so that a mount first fetches the reads of a recorded run, and little else')
    .addArgument(archiveOrImage())
    .argument('[command...]', 'with --image: the command to run in the image, after --')
    .option('--clip <file>', 'the archive, or s3://BUCKET/KEY')
    .option(
      '--profile <file>',
      'with --clip: the reads of a run, as clipctl profile recorded them (default: what is known of starts)',
    )
    .option('--content-cache <url>', 'with --clip: where other machines share what they know of starts')
    .option('--image <ref>', 'index this image and record a run of the command in a container of it')
    .addOption(
      new Option('--net <net>', "with --image: the command's network (default: none)").choices(['host', 'none']),
    )
    .option('--unsafe-chroot', 'with --image: run the command as root in a bare chroot, without a runtime')
    .option('-o, --out <file>', 'where to write the new archive (default: replaces --clip)')
    .option('--storage-image <ref>', 'where mounts fetch the layers, if not from where they were indexed')
    .option('--platform <os/arch>', 'with --image: platform of a multi-platform image')
    .option('--checkpoint <MiB>', 'uncompressed MiB between checkpoints elsewhere, 1 to 64 (default 1)', wholeNumber)
    .option(
      '--no-shape',
      'keep spans of equal length, and with them the cache entries of other archives of these layers',
    );
  addS3PlaceFlags(addRegistryFlags(command))
    .addHelpText('after', '\nShaped spans share no cache entries with those of other archives of the same layers.')
    .action((command: string[], flags: Flags) => run(flags, command));
}
