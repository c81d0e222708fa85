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
import { encodeSpanTable, type SpanColumns } from '../archive/index.js';
import type { CachedLayer } from './cached-layer.js';
import { isDiskTrouble } from './directory.js';
import { TABLE_SUFFIX } from './span-file-name.js';

/** Opens or makes a layer's file, of the layer's size, with its table beside it for `clipctl cache verify`. */
export function openSpanFile(path: string, table: SpanColumns): number {
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  try {
    const size = table.layerOffset[table.count]!;
    if (fstatSync(fd).size !== size) ftruncateSync(fd, size);
    const encoded = encodeSpanTable(table);
    if (sizeOf(path + TABLE_SUFFIX) !== encoded.length) writeTable(path + TABLE_SUFFIX, encoded);
    stampMount(fd);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
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
