import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import type { Archive } from '../../archive/index.js';
import { ClipError } from '../../bytes/index.js';
import type { RecordedProfile, TouchedRange } from '../../lazy/index.js';
import { printResult } from '../output.js';
import { addRegistryFlags, credentialsFrom, interruptible, type RegistryFlags, wholeNumber } from './index-command.js';

interface Flags extends RegistryFlags {
  readonly clip: string;
  readonly profile: string;
  readonly out?: string;
  readonly checkpoint?: number;
  readonly shape: boolean;
  readonly json?: boolean;
}

function readProfile(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new ClipError('NOT_FOUND', `cannot read profile ${path}: ${(cause as NodeJS.ErrnoException).code}`, {
      cause,
    });
  }
}

/** A profile of another image would shape spans for reads that never come. */
function checkBelongs(profile: RecordedProfile, archive: Archive, flags: Flags): void {
  const digests = archive.image.layers.map((layer) => layer.digest);
  if (digests.join() === profile.layers.join()) return;
  throw new ClipError(
    'CONFLICT',
    `${flags.profile} was recorded of ${profile.manifestDigest}, ${flags.clip} is ${archive.image.manifestDigest}`,
    {
      hint: 'record a profile of this image, or index that one',
    },
  );
}

/** A layer that occurs twice is cut once, for what is read of it in either place. */
function rangesByFirstUse(ranges: readonly TouchedRange[], archive: Archive): TouchedRange[] {
  const digests = archive.image.layers.map((layer) => layer.digest);
  return ranges.map((range) => ({ ...range, layer: digests.indexOf(digests[range.layer]!) }));
}

async function run(flags: Flags): Promise<void> {
  const credentials = credentialsFrom(flags);
  const [{ DEFAULT_CHECKPOINT_MIB, indexImage, openArchiveFile }, { parseProfile, profileSpans, shapedCuts }] =
    await Promise.all([import('../../index/index.js'), import('../../lazy/index.js')]);
  const [{ createProgress }, { formatBytes, shortDigest }] = await Promise.all([
    import('../progress.js'),
    import('../units.js'),
  ]);
  const profile = parseProfile(readProfile(flags.profile), flags.profile);
  const opened = openArchiveFile(flags.clip);
  opened.close();
  const { archive } = opened;
  const { image } = archive;
  checkBelongs(profile, archive, flags);

  const out = flags.out ?? flags.clip;
  const checkpointMiB = flags.checkpoint ?? DEFAULT_CHECKPOINT_MIB;
  const ranges = rangesByFirstUse(profile.ranges, archive);
  const cuts = new Map(
    image.layers.map(({ digest, uncompressedSize }) => {
      const first = image.layers.findIndex((layer) => layer.digest === digest);
      return [digest, shapedCuts(ranges, first, uncompressedSize, checkpointMiB * 1024 * 1024)];
    }),
  );
  const where = image.registry === '' ? `oci:${image.repository}` : `${image.registry}/${image.repository}`;
  const progress = await createProgress();
  const result = await interruptible((signal) =>
    indexImage(
      {
        imageRef: `${where}@${image.manifestDigest}`,
        outputPath: out,
        checkpointMiB,
        credentials,
        plainHttp: flags.plainHttp,
        platform: image.platform,
        hashes: archive.sections.some((section) => section.name === 'hashes'),
        signal,
        onProgress: ({ digest, done, total, rate }) => progress.update(digest, shortDigest(digest), done, total, rate),
        onWarning: (warning) => void process.stderr.write(`clipctl: warning: ${warning}\n`),
      },
      {
        reference: image.reference,
        cuts: flags.shape ? cuts : undefined,
        profile: ({ layers }) => ({
          source: 'recorded',
          ...profileSpans(
            ranges,
            layers.map((layer) => layer.spans),
          ),
        }),
      },
    ).finally(() => progress.stop()),
  );
  if (result === undefined) return;
  const after = openArchiveFile(out);
  after.close();
  const fetched = profileBytes(after.archive);
  const value = {
    path: out,
    size: result.size,
    identity: result.identity,
    spans: after.archive.profile?.span.length ?? 0,
    profileBytes: fetched,
    touchedBytes: ranges.reduce((sum, range) => sum + range.end - range.start, 0),
    unshapedProfileBytes: profileBytes({
      ...archive,
      profile: {
        source: 'recorded',
        ...profileSpans(
          ranges,
          archive.layers.map((l) => l.table),
        ),
      },
    }),
  };
  printResult(value, flags.json === true, () =>
    [
      `${out}: ${formatBytes(value.size)}; the profile fetches ${formatBytes(fetched)} in ${value.spans} spans`,
      `(${formatBytes(value.unshapedProfileBytes)} with the spans of ${flags.clip})`,
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
    .description('index an image again so that what a recorded run read is fetched first, and little else')
    .requiredOption('--clip <file>', 'the archive')
    .requiredOption('--profile <file>', 'what a run read, as recorded of a mount')
    .option('--out <file>', 'where to write the new archive (default: replaces --clip)')
    .option('--checkpoint <MiB>', 'uncompressed MiB between checkpoints elsewhere, 1 to 64 (default 2)', wholeNumber)
    .option(
      '--no-shape',
      'keep spans of equal length, and with them the cache entries of other archives of these layers',
    );
  addRegistryFlags(command)
    .option('--json', 'print the result as JSON')
    .option('--verbose', 'say more')
    .addHelpText('after', '\nShaped spans share no cache entries with those of other archives of the same layers.')
    .action((flags: Flags) => run(flags));
}
