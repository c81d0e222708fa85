import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  futimesSync,
  openSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { replaceDescriptor } from '../linux/index.js';
import type { CachedLayer } from './cached-layer.js';
import { isDiskTrouble } from './directory.js';
import { openSealedFile } from './sealed-file.js';
import { TABLE_SUFFIX } from './span-file-name.js';

/**
 * Opens or makes a layer's file, of the layer's size, with its table beside it for `clipctl cache verify`.
 * @param table in its canonical form
 */
export function openSpanFile(
  path: string,
  size: number,
  table: Uint8Array,
): { readonly fd: number; readonly sealed: boolean } {
  const sealed = openSealedFile(path, size);
  const fd = sealed ?? openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  try {
    if (fstatSync(fd).size !== size) ftruncateSync(fd, size);
    if (sizeOf(path + TABLE_SUFFIX) !== table.length) writeTable(path + TABLE_SUFFIX, table);
    stampMount(fd);
    return { fd, sealed: sealed !== null };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Lets a descriptor read a layer's file as it lies. */
export function lendFile(path: string, descriptor: number): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    replaceDescriptor(descriptor, fd);
  } finally {
    closeSync(fd);
  }
}

function writeTable(path: string, table: Uint8Array): void {
  rmSync(path, { force: true });
  writeFileSync(path, table, { mode: 0o600, flag: 'wx' });
}

/**
 * Stands for a layer's file while the disk refuses it. FUSE threads know the file by its descriptor's number, which stays
 * when the file takes its place (`replaceDescriptor`); until then no generation is odd, so no reader reads from it.
 */
export function openPlaceholder(): number {
  return openSync('/dev/null', 'r');
}

/** Between runs a file's mtime says when it was last mounted. */
export function stampMount(fd: number): void {
  try {
    const now = Date.now() / 1000;
    futimesSync(fd, now, now);
  } catch (error) {
    if (!isDiskTrouble(error)) throw error;
  }
}

/** Without hole punching: everything of a layer goes, if nothing of it is held. */
export function dropWhole(layer: CachedLayer): void {
  if (!layer.idle) return;
  for (let span = 0; span < layer.count; span++) if (layer.evictable(span)) layer.vacate(span, span + 1);
  emptyFile(layer.shared.fd, layer.shared.offsets[layer.count]!);
}

function emptyFile(fd: number, size: number): void {
  ftruncateSync(fd, 0);
  ftruncateSync(fd, size);
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? -1;
}
