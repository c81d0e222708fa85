import { type Command, Option } from 'commander';
import type { LayerProgress } from '../index/index.js';
import type { KeptLayers } from '../oci/index.js';
import type { PullPolicy } from '../store/index.js';
import { type CommonFlags, grouped } from './common-flags.js';
import { locate } from './daemon-flags.js';
import { sayingDockerHub } from './docker-hub.js';
import { printNote } from './output.js';
import { needsOwnProcess } from './own-process.js';
import { addRegistryFlags, credentialsFrom, type RegistryFlags } from './registry-flags.js';

/** Where S3 is, for s3://BUCKET/KEY. */
export interface S3PlaceFlags {
  readonly s3Endpoint?: string;
  readonly s3Region?: string;
}

export function addS3PlaceFlags(command: Command): Command {
  return grouped(command, 'Archives in S3 (s3://BUCKET/KEY):', (group) =>
    group
      .option('--s3-endpoint <url>', "the server, if not Amazon's (default $AWS_ENDPOINT_URL_S3)")
      .option('--s3-region <region>', 'the region (default $AWS_REGION)'),
  );
}

/** On a command that also overrides where an archive's data is: these two name both, but data that is not in S3 has no such place. */
export async function withDataPlace<Flags extends ImageFlags>(flags: Flags, archivePath: string): Promise<Flags> {
  const { clip, s3Endpoint, s3Region } = flags;
  if (!clip?.startsWith('s3://') || (s3Endpoint ?? s3Region) === undefined) return flags;
  const { readArchiveOrigin } = await import('../check/index.js');
  if (readArchiveOrigin(archivePath).storage.kind === 's3') return flags;
  const { s3Endpoint: _, s3Region: __, ...rest } = flags;
  return rest as Flags;
}

export function s3PlaceOf({ s3Endpoint, s3Region }: S3PlaceFlags): {
  readonly endpoint: string | undefined;
  readonly region: string | undefined;
} {
  return { endpoint: s3Endpoint, region: s3Region };
}

/** The flags of a command that takes an archive: a file, one in S3, or an image whose archive the store has or makes. */
export interface ImageFlags extends CommonFlags, RegistryFlags, S3PlaceFlags {
  readonly clip?: string;
  readonly image?: string;
  readonly pull?: PullPolicy;
  readonly indexDigest?: string;
  readonly indexSource?: string;
  readonly platform?: string;
}

const IMAGE = 'The archive or image:';

/** `--clip`, `--image` and how the image is found. */
export function addImageFlags(command: Command): Command {
  grouped(command, IMAGE, (group) =>
    group
      .option('--clip <file>', 'the .clip archive, or s3://BUCKET/KEY')
      .option('--image <ref>', 'or an image, whose archive is taken from the store or made now'),
  );
  return addPullFlags(command);
}

export function addPullFlags(command: Command): Command {
  grouped(command, IMAGE, (group) =>
    group
      .addOption(
        new Option(
          '--pull <when>',
          'with an image: when to ask the registry for its manifest (default: missing)',
        ).choices(['always', 'missing', 'never']),
      )
      .option('--index-digest <digest>', 'with an image: the only archive to take from its registry')
      .option(
        '--index-source <place>',
        'with an image: a further registry, HOST or HOST/NAME, that may have its archive (default $CLIP_INDEX_SOURCE)',
      )
      .option('--platform <os/arch>', "with a multi-platform image (default: this machine's)"),
  );
  return addS3PlaceFlags(addRegistryFlags(command));
}

export function warn(text: string): void {
  printNote('warning', text);
}

/** For a command that reads the whole image after its archive is made. */
export async function layerKeeper(flags: ImageFlags): Promise<KeptLayers> {
  const { KeptLayers: Keeper } = await import('../oci/index.js');
  const { cacheDir } = await locate(flags);
  return new Keeper(cacheDir, (why) => printNote('note', `${why}: it is fetched again`));
}

/**
 * The archive that the flags name, made with progress on stderr if need be.
 * @param kept gets the layers that are read for it
 */
export async function archiveOf(flags: ImageFlags, signal?: AbortSignal, kept?: KeptLayers): Promise<string> {
  if (flags.clip !== undefined && !flags.clip.startsWith('s3://') && flags.image === undefined) return flags.clip;
  needsOwnProcess();
  const { resolveArchive } = await import('../store/index.js');
  const { cacheDir } = await locate(flags);
  const credentials = credentialsFrom(flags);
  let progress: import('./progress.js').Progress | null = null;
  let loading: Promise<void> | null = null;
  const early: Parameters<import('./progress.js').Progress['update']>[] = [];
  const show = (...state: (typeof early)[number]): void => {
    loading ??= import('./progress.js').then(async ({ createProgress }) => {
      progress = await createProgress();
      for (const one of early) progress.update(...one);
    });
    if (progress === null) early.push(state);
    else progress.update(...state);
  };
  let onLayer: ((state: LayerProgress) => void) | null = null;
  const onProgress = (state: LayerProgress): void => {
    if (onLayer === null) {
      onLayer = () => {};
      void import('./index-progress.js').then(({ showIndexing }) => {
        onLayer = showIndexing({ update: show });
      });
    }
    onLayer(state);
  };
  const started = performance.now();
  const onFetched = (done: number, total: number): void =>
    show('archive', 'archive', done, total, (1000 * done) / (performance.now() - started));
  try {
    const { path } = await sayingDockerHub(flags.image, () =>
      resolveArchive({
        clip: flags.clip,
        image: flags.image,
        cacheDir,
        pull: flags.pull,
        platform: flags.platform,
        archiveDigest: flags.indexDigest,
        indexSource: flags.indexSource ?? (process.env.CLIP_INDEX_SOURCE || undefined),
        plainHttp: flags.plainHttp,
        credentials,
        signal,
        kept,
        s3: s3PlaceOf(flags),
        onProgress,
        onFetched,
        onWarning: warn,
        onNote: (note) => printNote('note', note),
      }),
    );
    return path;
  } finally {
    await loading;
    (progress as { stop(): void } | null)?.stop();
  }
}
