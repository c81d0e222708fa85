import { readFileSync, statSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import type { SourceOptions } from '../oci/index.js';
import type { S3Credentials, S3Place } from '../s3/index.js';
import type { PushedLayers } from '../store/index.js';
import { createProgress, showBytes } from './progress.js';
import { shortDigest } from './units.js';

interface Pushed {
  readonly reference: string;
  readonly digest: string;
  readonly archiveDigest: string;
  readonly changed: boolean;
  /** Indexes of its layers, if they were to be pushed, too. */
  readonly layerIndexes?: PushedLayers;
}

/** Stores an archive beside its image, or in another repository, and the indexes of its layers that a directory keeps. */
export async function pushArchive(
  clip: string,
  to: string | undefined,
  options: SourceOptions,
  signal: AbortSignal,
  layerIndexDirectory?: string,
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
    if (layerIndexDirectory === undefined) return pushed;
    const { pushLayerIndexes } = await import('../store/index.js');
    const show = (layer: string, done: number, total: number): void =>
      progress.update(layer, `index of ${shortDigest(layer)}`, done, total, 0);
    return { ...pushed, layerIndexes: await pushLayerIndexes(clip, layerIndexDirectory, artifacts, signal, show) };
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
  const { layerIndexes } = pushed;
  const layers =
    layerIndexes === undefined
      ? ''
      : `\nindexes of layers: ${layerIndexes.layers}, ${layerIndexes.changed} of them new`;
  return `${pushed.reference}: ${pushed.changed ? 'pushed' : 'there already'}, archive ${pushed.archiveDigest}${layers}`;
}
