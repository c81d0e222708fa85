import type { Archive } from '../archive/index.js';
import { anyFunction, boolean, ClipError, optionsOf, string } from '../bytes/index.js';
import { ArchiveFile } from '../check/index.js';
import { type CreateFromOCIImageOptions, checkpointBytes, indexImage } from '../index/index.js';
import {
  expectedRanges,
  parseProfile,
  profileSpans,
  type RecordedProfile,
  shapedCuts,
  type TouchedRange,
} from '../lazy/index.js';
import { originReference } from '../oci/index.js';
import { accessChecks } from './verify.js';

export interface OptimizeOptions
  extends Pick<
    CreateFromOCIImageOptions,
    'checkpointMiB' | 'storageImageRef' | 'credentials' | 'plainHttp' | 'signal' | 'onProgress' | 'onWarning'
  > {
  readonly archivePath: string;
  /** The reads of a run, as `profile()` of a mount gives them, or the file that `clipctl profile` writes has them. */
  readonly profile: RecordedProfile;
  /** Default: the archive is replaced. */
  readonly outputPath?: string | undefined;
  /** Cut spans where the reads begin and end. Default true. Such spans share no cache entries with other archives of these layers. */
  readonly shape?: boolean | undefined;
}

export interface OptimizeResult {
  readonly path: string;
  readonly size: number;
  readonly identity: string;
  /** Spans that a mount fetches first. */
  readonly spans: number;
  /** Their compressed bytes. */
  readonly profileBytes: number;
  /** Uncompressed bytes that the run read. */
  readonly touchedBytes: number;
  /** What the profile would fetch with the spans that the archive had. */
  readonly unshapedProfileBytes: number;
}

const { storageInfo: _, ...access } = accessChecks;
const check = optionsOf(
  {
    archivePath: string,
    profile: (value: unknown, where: string) => parseProfile(JSON.stringify(value ?? null), where),
  },
  {
    ...access,
    outputPath: string,
    shape: boolean,
    checkpointMiB: (value: unknown) => value, // checked below
    storageImageRef: string,
    onProgress: anyFunction,
    onWarning: anyFunction,
  },
);

/**
 * Indexes the image of an archive again, with spans shaped by the reads of a recorded run and with those reads in it, so that a mount
 * fetches them first and little else.
 * @throws ClipError CONFLICT when the profile is of another image; what `createFromOCIImage` throws; AbortError
 */
export async function optimizeArchive(options: OptimizeOptions): Promise<OptimizeResult> {
  const { profile } = check(options, 'optimizeArchive: options');
  const { archivePath, outputPath = archivePath } = options;
  const { archive } = openClosed(archivePath);
  checkBelongs(profile, archive, 'the profile', archivePath);
  return rewriteArchive(archive, profile, outputPath, options);
}

/** What is read at once when an archive is opened. */
function openClosed(path: string): ArchiveFile {
  const file = ArchiveFile.open(path);
  file.close();
  return file;
}

/** A profile of another image would shape spans for reads that never come. */
export function checkBelongs(profile: RecordedProfile, archive: Archive, profileName: string, clip: string): void {
  const digests = archive.image.layers.map((layer) => layer.digest);
  if (digests.join() === profile.layers.join()) return;
  throw new ClipError(
    'CONFLICT',
    `${profileName} is a profile of ${profile.manifestDigest}, but ${clip} is an archive of ${archive.image.manifestDigest}`,
    { hint: "record a profile of this archive's image, or index the profile's" },
  );
}

/** A layer that occurs twice is cut once, by the reads of both occurrences. */
function rangesByFirstUse(ranges: readonly TouchedRange[], archive: Archive): TouchedRange[] {
  const digests = archive.image.layers.map((layer) => layer.digest);
  return ranges.map((range) => ({ ...range, layer: digests.indexOf(digests[range.layer]!) }));
}

/** The same for an archive that is open, or was never a file. */
export async function rewriteArchive(
  archive: Archive,
  profile: RecordedProfile,
  outputPath: string,
  options: Omit<OptimizeOptions, 'archivePath' | 'profile' | 'outputPath'>,
): Promise<OptimizeResult> {
  const { image } = archive;
  const { shape = true, storageImageRef } = options;
  const spanBytes = checkpointBytes(options.checkpointMiB);
  const ranges = rangesByFirstUse(expectedRanges(profile), archive);
  const cuts = new Map(
    image.layers.map(({ digest, uncompressedSize }) => {
      const first = image.layers.findIndex((layer) => layer.digest === digest);
      return [digest, shapedCuts(ranges, first, uncompressedSize, spanBytes)];
    }),
  );
  const result = await indexImage(
    {
      imageRef: originReference(image),
      outputPath,
      checkpointMiB: options.checkpointMiB,
      storageImageRef,
      credentials: options.credentials,
      plainHttp: options.plainHttp,
      platform: image.platform,
      hashes: archive.sections.some((section) => section.name === 'hashes'),
      signal: options.signal,
      onProgress: options.onProgress,
      onWarning: options.onWarning,
    },
    {
      reference: storageImageRef === undefined ? image.reference : undefined,
      cuts: shape ? cuts : undefined,
      profile: ({ layers }) => ({
        source: 'recorded',
        ...profileSpans(
          ranges,
          layers.map((layer) => layer.spans),
        ),
      }),
    },
  );
  const { archive: after } = openClosed(outputPath);
  const before = profileSpans(
    ranges,
    archive.layers.map((layer) => layer.table),
  );
  return {
    path: outputPath,
    size: result.size,
    identity: result.identity,
    spans: after.profile?.span.length ?? 0,
    profileBytes: profileBytes(after),
    touchedBytes: ranges.reduce((sum, range) => sum + range.end - range.start, 0),
    unshapedProfileBytes: profileBytes({ ...archive, profile: { source: 'recorded', ...before } }),
  };
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
