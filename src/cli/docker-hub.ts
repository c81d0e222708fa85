import { ClipError } from '../bytes/index.js';
import { similarArchive } from '../paths/index.js';

/** Failures behind which a name may stand that was meant otherwise. */
const TELLING: readonly string[] = ['NETWORK', 'NOT_FOUND', 'UNAUTHORIZED'];

/**
 * A name without a registry is one of Docker Hub. Where that leads nowhere the error says so, and which archive here may have been meant:
 * the user named neither docker.io nor a registry.
 */
export async function sayingDockerHub<T>(name: string | undefined, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (name === undefined || !(error instanceof ClipError) || !TELLING.includes(error.code)) throw error;
    const meaning = await meaningOf(name);
    if (meaning === null) throw error;
    const file = similarArchive(`${name}.clip`, true);
    const next = file === null ? error.hint : `did you mean the file ${file}?`;
    throw new ClipError(error.code, error.message, {
      cause: error,
      hint: `${name} means the image ${meaning}${next === undefined ? '' : `: ${next}`}`,
    });
  }
}

async function meaningOf(name: string): Promise<string | null> {
  if (/^(?:docker:\/\/)?(?:index\.)?docker\.io\//.test(name)) return null;
  const { parseReference } = await import('../oci/index.js');
  const reference = parseReference(name);
  return reference.kind === 'registry' && reference.registry === 'docker.io' ? reference.canonical : null;
}
