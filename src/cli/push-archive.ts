import { readFileSync, statSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import type { SourceOptions } from '../oci/index.js';

interface Pushed {
  readonly reference: string;
  readonly digest: string;
  readonly archiveDigest: string;
  readonly changed: boolean;
}

/** Stores an archive beside its image, or beside the same image elsewhere. */
export async function pushArchive(
  clip: string,
  to: string | undefined,
  options: SourceOptions,
  signal: AbortSignal,
): Promise<Pushed> {
  const [{ readArchiveImage }, { digestOf, MAX_ARCHIVE_BYTES, openArtifacts, parseReference }] = await Promise.all([
    import('../check/index.js'),
    import('../oci/index.js'),
  ]);
  const image = readArchiveImage(clip);
  const where = to === undefined ? image : parseReference(to);
  if (!('registry' in where) || where.registry === '') {
    throw new ClipError('USAGE', `${to ?? image.reference} is not in a registry`, {
      hint: 'name a repository: clipctl push --clip FILE HOST/NAME',
    });
  }
  const { registry, repository } = where;
  if (image.registry !== registry || image.repository !== repository) {
    const made = image.registry === '' ? image.repository : `${image.registry}/${image.repository}`;
    throw new ClipError('USAGE', `${clip} fetches its layers from ${made}, not from ${registry}/${repository}`, {
      hint: `index the image there: clipctl index --image ${registry}/${repository}:TAG --out FILE --push`,
    });
  }

  if (statSync(clip).size > MAX_ARCHIVE_BYTES) {
    throw new ClipError('LIMIT', `${clip} is larger than ${MAX_ARCHIVE_BYTES} bytes, the most that clip fetches again`);
  }
  const bytes = readFileSync(clip);
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
