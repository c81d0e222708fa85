import { closeSync, constants, fstatSync, ftruncateSync, openSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from '../metrics/index.js';
import { listDirectory } from './directory.js';
import { isSealedFile } from './sealed-file.js';
import { parseSpanFileName, TABLE_SUFFIX } from './span-file-name.js';

/** Bytes by which a file is shortened in one step. Sparse tails free less, so the loop counts blocks. */
const STEP = 16 * 1024 * 1024;

/**
 * Layer files that are not mounted, which are freed first. They are cut from the end, the oldest file first. This needs no span table
 * and no order of writes: the rest is checked span by span when the layer is mounted again.
 */
export class UnmountedFiles {
  /** path → bytes on disk, in order of last use. */
  readonly #files = new Map<string, number>();
  bytes = 0;

  /** Lists the files of earlier runs, and removes foreign files in the cache's own directory. */
  constructor(spans: string | null) {
    if (spans === null) return;
    const found: { path: string; bytes: number; lastUse: number }[] = [];
    const names = new Set(listDirectory(spans));
    for (const name of names) {
      const path = join(spans, name);
      const isTable = name.endsWith(TABLE_SUFFIX) && names.has(name.slice(0, -TABLE_SUFFIX.length));
      if (isTable) continue;
      const stat = statSync(path, { throwIfNoEntry: false });
      if (stat === undefined) continue;
      if (parseSpanFileName(name) !== null && stat.isFile())
        found.push({ path, bytes: stat.blocks * 512, lastUse: stat.mtimeMs });
      else rmSync(path, { recursive: true, force: true });
    }
    found.sort((a, b) => a.lastUse - b.lastUse);
    for (const file of found) this.add(file.path, file.bytes);
  }

  get count(): number {
    return this.#files.size;
  }

  /** An empty file is removed, because it would never be freed when room is needed. */
  add(path: string, bytes: number): void {
    if (bytes === 0) {
      removeFile(path);
      return;
    }
    this.#files.set(path, bytes);
    this.bytes += bytes;
  }

  /** It is mounted again. */
  remove(path: string): void {
    this.bytes -= this.#files.get(path) ?? 0;
    this.#files.delete(path);
  }

  /** Frees up to `bytes`, or all. Returns the freed bytes. */
  shrink(bytes: number, log: Logger): number {
    let freed = 0;
    for (const path of [...this.#files.keys()]) {
      if (freed >= bytes) break;
      const had = this.#files.get(path)!;
      let left: number;
      try {
        left = cut(path, had - (bytes - freed));
      } catch (error) {
        log.error({ path, error: String(error) }, 'an unmounted cache file cannot be shortened');
        continue;
      }
      freed += had - left;
      this.bytes -= had - left;
      if (left > 0) this.#files.set(path, left);
      else this.#files.delete(path);
    }
    return freed;
  }
}

/** Shortens a file until it has at most `target` bytes on disk; removes it when nothing is left. Returns the bytes left. */
function cut(path: string, target: number): number {
  if (target > 0 && !isSealedFile(path)) {
    const fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
    try {
      for (let stat = fstatSync(fd); stat.size > 0; stat = fstatSync(fd)) {
        const bytes = stat.blocks * 512;
        if (bytes <= target) return bytes;
        ftruncateSync(fd, Math.max(0, stat.size - STEP));
      }
    } finally {
      closeSync(fd);
    }
  }
  removeFile(path);
  return 0;
}

function removeFile(path: string): void {
  rmSync(path, { force: true });
  rmSync(path + TABLE_SUFFIX, { force: true });
}
