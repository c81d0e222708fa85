import { readFileSync, statSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import type { SourceOptions } from '../oci/index.js';
import type { S3Credentials, S3Place } from '../s3/index.js';
import type { PushedLayers, PushedProfiles } from '../store/index.js';
import { printNote } from './output.js';
import { createProgress, showBytes } from './progress.js';
import { shortDigest } from './units.js';

interface Pushed {
  readonly reference: string;
  readonly digest: string;
  readonly archiveDigest: string;
  readonly changed: boolean;
  /** Indexes of its layers, if they were to be pushed, too. */
  readonly layerIndexes?: PushedLayers;
  /** Profiles of its starts, likewise. */
  readonly profiles?: PushedProfiles;
}

/** What goes with an archive: each from where this machine keeps it. */
export interface PushedWith {
  readonly layerIndexDirectory?: string | undefined;
  /** Of profiles. */
  readonly cacheDir?: string | undefined;
}

/** Stores an archive beside its image, or in another repository. */
export async function pushArchive(
  clip: string,
  to: string | undefined,
  options: SourceOptions,
  signal: AbortSignal,
  { layerIndexDirectory, cacheDir }: PushedWith = {},
): Promise<Pushed> {
  const [{ readArchiveImage }, { digestOf, MAX_ARCHIVE_BYTES, openArtifacts, parseReference }] = await Promise.all([
    import('../check/index.js'),
    import('../oci/index.js'),
  ]);
  const image = readArchiveImage(clip);
  const where = to === undefined ? image : parseReference(to);
  if (!('registry' in where) || where.registry === '') {
    throw new ClipError('USAGE', `${to ?? image.reference} is not in a registry`, {
      hint: 'name a repository: clipctl push FILE HOST/NAME',
    });
  }
  const { registry, repository } = where;
  if (statSync(clip).size > MAX_ARCHIVE_BYTES) {
    throw new ClipError('LIMIT', `${clip} is larger than ${MAX_ARCHIVE_BYTES} bytes, the most that clip fetches again`);
  }
  const bytes = readFileSync(clip);
  // A mirror of the image, or a repository of archives (--index-source).
  const apart = image.registry !== registry || image.repository !== repository;
  const mountFrom = apart && image.registry === registry ? image.repository : undefined;
  const progress = await createProgress();
  const artifacts = await openArtifacts({ registry, repository }, options, { push: true, mountFrom });
  try {
    const { digest, tag, changed } = await artifacts.push(
      bytes,
      image.manifestDigest,
      { apart, mountFrom },
      signal,
      showBytes(progress, clip, 'uploading'),
    );
    const pushed = { reference: `${registry}/${repository}:${tag}`, digest, archiveDigest: digestOf(bytes), changed };
    if (layerIndexDirectory === undefined && cacheDir === undefined) return pushed;
    const { pushLayerIndexes, pushProfiles } = await import('../store/index.js');
    const show = (layer: string, done: number, total: number): void =>
      progress.update(layer, `index of ${shortDigest(layer)}`, done, total, 0);
    const layerIndexes =
      layerIndexDirectory && (await pushLayerIndexes(clip, layerIndexDirectory, artifacts, signal, show));
    const profiles = cacheDir && (await pushProfiles(clip, cacheDir, artifacts, signal));
    return { ...pushed, ...(layerIndexes ? { layerIndexes } : {}), ...(profiles ? { profiles } : {}) };
  } finally {
    progress.stop();
    await artifacts.close();
  }
}

/** Stores an archive as an object in S3. */
export async function pushArchiveToS3(
  clip: string,
  url: string,
  options: S3Place & { readonly credentials?: S3Credentials | undefined },
  signal: AbortSignal,
): Promise<Pushed & { etag: string; size: number }> {
  const [{ pushToS3 }, { parseS3Url, s3Name }] = await Promise.all([
    import('../store/index.js'),
    import('../s3/index.js'),
  ]);
  const location = parseS3Url(url, options);
  const progress = await createProgress();
  const onProgress = showBytes(progress, url, 'uploading');
  try {
    const { credentials } = options;
    const { etag, size, archiveDigest, changed } = await pushToS3(clip, location, { credentials, signal, onProgress });
    return { reference: s3Name(location), digest: archiveDigest, archiveDigest, changed, etag, size };
  } finally {
    progress.stop();
  }
}

export function printPushed(pushed: Pushed): string {
  const { layerIndexes, profiles } = pushed;
  const layers =
    layerIndexes === undefined
      ? ''
      : `\nindexes of layers: ${layerIndexes.layers}, ${layerIndexes.changed} of them new`;
  if (profiles?.profiles === 0) {
    printNote('note', 'no profile of this image is kept here: mount it and run its program, then push again');
  }
  const starts =
    profiles === undefined ? '' : `\nprofiles of starts: ${profiles.profiles}, ${profiles.changed} of them new`;
  return `${pushed.reference}: ${pushed.changed ? 'pushed' : 'there already'}, archive ${pushed.archiveDigest}${layers}${starts}`;
}
