import {
  closeSync,
  constants,
  fchmodSync,
  fdatasync,
  fstatSync,
  openSync,
  rmSync,
  type Stats,
  statSync,
} from 'node:fs';
import { promisify } from 'node:util';
import { replaceDescriptor } from '../linux/index.js';
import { publish } from '../spans/index.js';
import { type CachedLayer, Occupied } from './cached-layer.js';

const fdatasyncAsync = promisify(fdatasync);

/** Of a sealed file. That nothing may be written is the mark, which outlives processes. */
const SEALED_MODE = 0o400;
const WRITABLE = 0o200;

/*
 * A sealed layer file is complete, is on the disk, and is never written, shortened or punched again by any clipd: the kernel may be reading
 * it by itself, also after the clipd that gave it to the kernel was killed. It goes as a whole, by its name; the kernel keeps what it
 * has open.
 */

function isSealed(stat: Stats): boolean {
  return (stat.mode & WRITABLE) === 0;
}

export function isSealedFile(path: string): boolean {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat !== undefined && isSealed(stat);
}

/** Writes an open file to the disk and seals it; from then on the descriptor can only read. @throws the disk's error */
export async function sealFile(fd: number): Promise<void> {
  await fdatasyncAsync(fd);
  fchmodSync(fd, SEALED_MODE);
  const readable = openSync(`/proc/self/fd/${fd}`, constants.O_RDONLY);
  try {
    replaceDescriptor(fd, readable);
  } finally {
    closeSync(readable);
  }
}

/** Opens a sealed file for reading; null when there is none. One of a wrong size is removed. */
export function openSealedFile(path: string, size: number): number | null {
  if (!isSealedFile(path)) return null;
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  const stat = fstatSync(fd);
  if (isSealed(stat) && stat.size === size) return fd;
  closeSync(fd);
  rmSync(path, { force: true });
  return null;
}

/** Sealed files whose every byte this process has checked. They are not checked again when they are opened again. */
export class CheckedFiles {
  /** By the layer's key: the file's inode number. */
  readonly #files = new Map<string, number>();

  /** A layer that is about to be closed. */
  note(layer: CachedLayer): void {
    if (layer.sealed && layer.complete && !layer.damaged) this.#files.set(layer.key, fstatSync(layer.shared.fd).ino);
    else this.#files.delete(layer.key);
  }

  /** A layer that was just opened: if its file is sealed, all of it is there. */
  restore(layer: CachedLayer): void {
    const { fd, generations, offsets } = layer.shared;
    if (!layer.sealed) return;
    // Spans of zeros are holes of the file, and are there all the same.
    layer.occupyRange(0, offsets[layer.count]!);
    if (this.#files.get(layer.key) !== fstatSync(fd).ino) return;
    for (let span = 0; span < layer.count; span++) {
      layer.occupy(span, Occupied.yes);
      publish({ fd, position: 0, span, generations });
    }
  }
}
