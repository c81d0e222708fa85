import { readFileSync } from 'node:fs';
import { type Command, Option } from 'commander';
import type { Archive } from '../../archive/index.js';
import { ClipError } from '../../bytes/index.js';
import type { RecordedProfile, TouchedRange } from '../../lazy/index.js';
import type { CommonFlags } from '../common-flags.js';
import { wholeNumber } from '../numbers.js';
import { printNote, printResult } from '../output.js';
import { addRegistryFlags, credentialsFrom, interruptible, type RegistryFlags } from './index-command.js';

interface Flags extends RegistryFlags, CommonFlags {
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

/** A profile of another image would shape spans for reads that never come. */
function checkBelongs(profile: RecordedProfile, archive: Archive, flags: { profile: string; clip: string }): void {
  const digests = archive.image.layers.map((layer) => layer.digest);
  if (digests.join() === profile.layers.join()) return;
  throw new ClipError(
    'CONFLICT',
    `${flags.profile} is a profile of ${profile.manifestDigest}, but ${flags.clip} is an archive of ${archive.image.manifestDigest}`,
    {
      hint: "record a profile of this archive's image, or index the profile's",
    },
  );
}

/** A layer that occurs twice is cut once, by the reads of both occurrences. */
function rangesByFirstUse(ranges: readonly TouchedRange[], archive: Archive): TouchedRange[] {
  const digests = archive.image.layers.map((layer) => layer.digest);
  return ranges.map((range) => ({ ...range, layer: digests.indexOf(digests[range.layer]!) }));
}

async function run(flags: Flags, command: readonly string[]): Promise<void> {
  const { clip, image, profile, out } = flags;
  const { checkpointBytes } = await import('../../index/index.js');
  const spanBytes = checkpointBytes(flags.checkpoint);
  if (image !== undefined && out !== undefined && clip === undefined && profile === undefined && command.length > 0) {
    await optimizeImage(flags, image, out, spanBytes, command);
  } else if (clip !== undefined && profile !== undefined && image === undefined && command.length === 0) {
    const { parseProfile } = await import('../../lazy/index.js');
    const recorded = parseProfile(readProfile(profile), profile);
    const archive = await archiveOf(clip);
    checkBelongs(recorded, archive, { profile, clip });
    const result = await interruptible((signal) => rewrite(flags, archive, recorded, out ?? clip, spanBytes, signal));
    if (result !== undefined) report(result, flags, clip);
  } else {
    throw new ClipError('USAGE', 'optimize takes --clip FILE --profile P [--out F2], or --image REF --out F -- CMD…', {
      hint: 'clipctl help optimize explains them',
    });
  }
}

async function optimizeImage(
  flags: Flags,
  image: string,
  out: string,
  spanBytes: number,
  command: readonly string[],
): Promise<void> {
  const { recordRun } = await import('../record-run.js');
  const credentials = credentialsFrom(flags);
  const { plainHttp, platform } = flags;
  const result = await interruptible(async (signal) => {
    const { unsafeChroot, net } = flags;
    const options = { imageRef: image, credentials, plainHttp, platform, command, unsafeChroot, net, signal };
    const recorded = await recordRun(options);
    return rewrite(flags, recorded.archive, recorded.profile, out, spanBytes, signal);
  });
  if (result !== undefined) report(result, flags, 'equal length');
}

async function archiveOf(path: string): Promise<Archive> {
  const { ArchiveFile } = await import('../../check/index.js');
  const opened = ArchiveFile.open(path);
  opened.close();
  return opened.archive;
}

interface Rewritten {
  readonly path: string;
  readonly size: number;
  readonly identity: string;
  readonly spans: number;
  readonly profileBytes: number;
  readonly touchedBytes: number;
  readonly unshapedProfileBytes: number;
}

/** Indexes the archive's image again, with spans shaped by the profile and with the profile in it. */
async function rewrite(
  flags: Flags,
  archive: Archive,
  profile: RecordedProfile,
  out: string,
  spanBytes: number,
  signal: AbortSignal,
): Promise<Rewritten> {
  const [{ indexImage }, { profileSpans, shapedCuts }, { originReference }] = await Promise.all([
    import('../../index/index.js'),
    import('../../lazy/index.js'),
    import('../../oci/index.js'),
  ]);
  const [{ createProgress }, { shortDigest }] = await Promise.all([import('../progress.js'), import('../units.js')]);
  const { image } = archive;
  const ranges = rangesByFirstUse(profile.ranges, archive);
  const cuts = new Map(
    image.layers.map(({ digest, uncompressedSize }) => {
      const first = image.layers.findIndex((layer) => layer.digest === digest);
      return [digest, shapedCuts(ranges, first, uncompressedSize, spanBytes)];
    }),
  );
  const progress = await createProgress();
  const result = await indexImage(
    {
      imageRef: originReference(image),
      outputPath: out,
      checkpointMiB: flags.checkpoint,
      storageImageRef: flags.storageImage,
      credentials: credentialsFrom(flags),
      plainHttp: flags.plainHttp,
      platform: image.platform,
      hashes: archive.sections.some((section) => section.name === 'hashes'),
      signal,
      onProgress: ({ digest, done, total, rate }) => progress.update(digest, shortDigest(digest), done, total, rate),
      onWarning: (warning) => printNote('warning', warning),
    },
    {
      reference: flags.storageImage === undefined ? image.reference : undefined,
      cuts: flags.shape ? cuts : undefined,
      profile: ({ layers }) => ({
        source: 'recorded',
        ...profileSpans(
          ranges,
          layers.map((layer) => layer.spans),
        ),
      }),
    },
  ).finally(() => progress.stop());
  const after = await archiveOf(out);
  const before = profileSpans(
    ranges,
    archive.layers.map((layer) => layer.table),
  );
  return {
    path: out,
    size: result.size,
    identity: result.identity,
    spans: after.profile?.span.length ?? 0,
    profileBytes: profileBytes(after),
    touchedBytes: ranges.reduce((sum, range) => sum + range.end - range.start, 0),
    unshapedProfileBytes: profileBytes({ ...archive, profile: { source: 'recorded', ...before } }),
  };
}

function report(value: Rewritten, flags: Flags, before: string): void {
  const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
  printResult(value, flags.json === true, () =>
    [
      `${value.path}: ${megabytes(value.size)}; the profile fetches ${megabytes(value.profileBytes)} in ${value.spans} spans`,
      `(${megabytes(value.unshapedProfileBytes)} with the spans of ${before})`,
    ].join(' '),
  );
}

/** Compressed bytes of the profile's spans. */
function profileBytes(archive: Pick<Archive, 'layers' | 'profile'>): number {
  const { profile } = archive;
  if (profile === null) return 0;
  let bytes = 0;
  for (let i = 0; i < profile.span.length; i++) {
    const { bitOffset } = archive.layers[profile.layer[i]!]!.table;
    const span = profile.span[i]!;
    bytes += Math.ceil(bitOffset[span + 1]! / 8) - Math.floor(bitOffset[span]! / 8);
  }
  return bytes;
}

export function registerOptimize(program: Command): void {
  const command = program
    .command('optimize')
    .description('index an image again, so that a mount first fetches the reads of a recorded run, and little else')
    .argument('[command...]', 'with --image: the command to run in the image, after --')
    .option('--clip <file>', 'the archive')
    .option('--profile <file>', 'with --clip: the reads of a run, as clipctl profile recorded them')
    .option('--image <ref>', 'index this image and record a run of the command in a container of it')
    .addOption(
      new Option('--net <net>', "with --image: the command's network (default: none)").choices(['host', 'none']),
    )
    .option('--unsafe-chroot', 'with --image: run the command as root in a bare chroot, without a runtime')
    .option('--out <file>', 'where to write the new archive (default: replaces --clip)')
    .option('--storage-image <ref>', 'where mounts fetch the layers, if not from where they were indexed')
    .option('--platform <os/arch>', 'with --image: platform of a multi-platform image')
    .option('--checkpoint <MiB>', 'uncompressed MiB between checkpoints elsewhere, 1 to 64 (default 1)', wholeNumber)
    .option(
      '--no-shape',
      'keep spans of equal length, and with them the cache entries of other archives of these layers',
    );
  addRegistryFlags(command)
    .addHelpText('after', '\nShaped spans share no cache entries with those of other archives of the same layers.')
    .action((command: string[], flags: Flags) => run(flags, command));
}
