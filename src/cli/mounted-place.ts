import { ClipError } from '../bytes/index.js';
import { resolvePlace } from '../wire/index.js';
import type { CommonFlags } from './common-flags.js';
import { locate } from './daemon-flags.js';

/** The place of a mount that a command names: a directory, or the id of a container, whose image is mounted there. */
export async function mountedPlace(target: string, flags: CommonFlags): Promise<string> {
  if (!target.includes('/')) {
    const { containersOf } = await import('../container/index.js');
    const { root, cacheDir } = await locate(flags);
    const container = containersOf(root, cacheDir).find(({ id }) => id === target);
    if (container?.place === null) {
      throw new ClipError('NOT_FOUND', `container ${target} has its image unpacked: nothing is mounted for it`);
    }
    if (container !== undefined) return container.place;
  }
  return resolvePlace(target);
}
