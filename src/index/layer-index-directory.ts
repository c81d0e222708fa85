import { closeSync, constants, fstatSync, futimesSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { layerIndexName } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { OwnDirectory } from '../paths/index.js';
import { writeFileByRename } from './output-file.js';

/**
 * The indexes of all layers together: an index takes 1 % of its compressed layer at most, so that these are of 200 GB of layers or
 * more.
 */
export const DEFAULT_LAYER_INDEX_BYTES = 2e9;

const NAME = /^sha(256-[0-9a-f]{64}|512-[0-9a-f]{128})\.\d+\.clip$/;

/**
 * The indexes of single layers, in a directory of this user's. Several processes may use it at the same time. Only indexes that were
 * made here, from bytes with the layer's digest, may be kept in it: every image that has the layer is put together from them, whatever
 * repository it is in.
 */
export class LayerIndexDirectory {
  readonly #path: string;
  readonly #maxBytes: number;

  constructor(path: string, maxBytes = DEFAULT_LAYER_INDEX_BYTES) {
    this.#path = resolve(path);
    this.#maxBytes = maxBytes;
  }

  /** A path for errors. */
  nameOf(digest: string, checkpointMiB: number): string {
    return `${this.#path}/${layerIndexName(digest, checkpointMiB)}`;
  }

  /** The bytes of an index, now the last used; null when there is none. @throws ClipError PERMISSION; Node's error */
  read(digest: string, checkpointMiB: number): Uint8Array | null {
    const directory = this.#open(false);
    if (directory === null) return null;
    try {
      const fd = directory.open(layerIndexName(digest, checkpointMiB), constants.O_RDONLY);
      try {
        const now = new Date();
        const { mtime } = fstatSync(fd);
        try {
          futimesSync(fd, now, mtime);
        } catch {
          // On a read-only disk the order of uses stays as it is.
        }
        return readFileSync(fd);
      } finally {
        closeSync(fd);
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    } finally {
      directory.close();
    }
  }

  /** Keeps an index, and removes the longest unused ones beyond the bound. @throws ClipError naming the file */
  async write(digest: string, checkpointMiB: number, parts: readonly Uint8Array[]): Promise<void> {
    const directory = this.#open(true)!;
    try {
      const name = layerIndexName(digest, checkpointMiB);
      await writeFileByRename(directory.at(name), parts);
      prune(directory, this.#maxBytes, name);
    } finally {
      directory.close();
    }
  }

  /** The checkpoint settings, in MiB, of the indexes of a layer. */
  settingsOf(digest: string): number[] {
    const directory = this.#open(false);
    if (directory === null) return [];
    try {
      const start = `${digest.replace(':', '-')}.`;
      return readdirSync(directory.at('.'))
        .filter((name) => name.startsWith(start) && NAME.test(name))
        .map((name) => Number(name.slice(start.length, -'.clip'.length)));
    } finally {
      directory.close();
    }
  }

  /** Removes the longest unused indexes until the rest takes at most `maxBytes`. @returns bytes freed */
  prune(maxBytes: number): number {
    const directory = this.#open(false);
    if (directory === null) return 0;
    try {
      return prune(directory, maxBytes, '');
    } finally {
      directory.close();
    }
  }

  /** Bytes of all indexes. */
  size(): number {
    const directory = this.#open(false);
    if (directory === null) return 0;
    try {
      return filesOf(directory).reduce((sum, { size }) => sum + size, 0);
    } finally {
      directory.close();
    }
  }

  #open(make: boolean): OwnDirectory | null {
    try {
      return OwnDirectory.open(this.#path, { make });
    } catch (error) {
      if (!make && error instanceof ClipError && error.code === 'NOT_FOUND') return null;
      throw error;
    }
  }
}

/** The last used first. */
function filesOf(directory: OwnDirectory): { name: string; size: number; atimeMs: number }[] {
  const files: { name: string; size: number; atimeMs: number }[] = [];
  for (const name of readdirSync(directory.at('.'))) {
    if (!NAME.test(name)) continue;
    const stat = statSync(directory.at(name), { throwIfNoEntry: false });
    if (stat !== undefined) files.push({ name, size: stat.size, atimeMs: stat.atimeMs });
  }
  return files.sort((a, b) => b.atimeMs - a.atimeMs);
}

/** @param keep a name that stays */
function prune(directory: OwnDirectory, maxBytes: number, keep: string): number {
  let [used, freed] = [0, 0];
  for (const { name, size } of filesOf(directory)) {
    if (name === keep || used + size <= maxBytes) used += size;
    else {
      rmSync(directory.at(name), { force: true });
      freed += size;
    }
  }
  return freed;
}
