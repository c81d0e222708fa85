import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { SpanColumns } from '../archive/index.js';
import { crc32 } from '../bytes/index.js';
import { punchHole, tryLock } from '../linux/index.js';
import { blockCheck, checkBlocks, spanAt } from '../spans/index.js';
import { CacheDirectory, type CacheOwner, listDirectory, readOwner, readTable } from './directory.js';
import { dataExtents } from './extents.js';
import { parseSpanFileName } from './span-file-name.js';

/** A cache directory on disk, for `clipctl cache`. None of this needs the directory's owner. */
export interface CachedFile {
  /** "sha256:…" of the blob. */
  readonly layer: string;
  /** SHA-256 of the span table: one layer may be cut differently by several archives. */
  readonly table: string;
  readonly kind: string;
  readonly layerBytes: number;
  /** On disk. */
  readonly usedBytes: number;
  readonly spans: number;
  /** When it was last mounted or unmounted. */
  readonly lastUse: string;
}

export interface CacheSummary {
  readonly directory: string;
  /** The process that has it open; null: none. */
  readonly owner: CacheOwner | null;
  readonly files: number;
  readonly usedBytes: number;
}

export interface VerifiedFile {
  readonly layer: string;
  readonly table: string;
  /** Spans with the archive's CRC-32. */
  readonly intact: number;
  /** Spans that were damaged or incomplete: their bytes were freed. */
  readonly damaged: number;
  /** Spans that are not there. */
  readonly absent: number;
}

export function listCache(directory: string): CachedFile[] {
  const spans = join(directory, 'spans');
  const files: CachedFile[] = [];
  for (const name of listDirectory(spans)) {
    const parts = parseSpanFileName(name);
    const stat = parts && statSync(join(spans, name), { throwIfNoEntry: false });
    if (!parts || !stat) continue;
    const table = readTable(join(spans, name));
    files.push({
      ...parts,
      kind: table?.kind ?? 'unknown',
      layerBytes: stat.size,
      usedBytes: stat.blocks * 512,
      spans: table?.count ?? 0,
      lastUse: stat.mtime.toISOString(),
    });
  }
  return files.sort((a, b) => (a.lastUse < b.lastUse ? 1 : -1));
}

export function summarizeCache(directory: string): CacheSummary {
  const files = listCache(directory);
  return {
    directory,
    owner: livingOwner(directory),
    files: files.length,
    usedBytes: files.reduce((sum, file) => sum + file.usedBytes, 0),
  };
}

/** Timers and signals have their turn this often. */
const TURN_MS = 50;

/**
 * Checks every cached span against its table's crc32 and frees wrong ones.
 * @param onBytes how far it is: bytes on disk, of all
 * @throws ClipError BUSY while a process has the directory open
 */
export async function verifyCache(
  directory: string,
  onFile: (file: VerifiedFile) => void,
  onBytes: (done: number, total: number) => void = () => {},
): Promise<void> {
  if (statSync(directory, { throwIfNoEntry: false }) === undefined) return;
  const owned = CacheDirectory.open(directory, 'clipctl cache verify');
  try {
    const total = listCache(directory).reduce((sum, { usedBytes }) => sum + usedBytes, 0);
    let done = 0;
    let turn = performance.now();
    const checked = async (bytes: number): Promise<void> => {
      done += bytes;
      if (performance.now() - turn < TURN_MS) return;
      onBytes(Math.min(done, total), total);
      await new Promise((resolve) => setImmediate(resolve));
      turn = performance.now();
    };
    for (const name of listDirectory(owned.spans)) {
      const parts = parseSpanFileName(name);
      if (parts === null) continue;
      const path = join(owned.spans, name);
      onFile({ ...parts, ...(await verifyFile(path, readTable(path), checked)) });
    }
    onBytes(total, total);
  } finally {
    owned.release();
  }
}

async function verifyFile(
  path: string,
  table: SpanColumns | null,
  onChecked: (bytes: number) => Promise<void>,
): Promise<{ intact: number; damaged: number; absent: number }> {
  const counts = { intact: 0, damaged: 0, absent: 0 };
  if (table === null) return counts; // without its table it cannot be checked here: clipd checks it at its next use
  const fd = openSync(path, 'r+');
  try {
    const { layerOffset, count } = table;
    const touched = new Uint8Array(count);
    const { size } = statSync(path);
    dataExtents(fd, Math.min(size, layerOffset[count]!), (start, end) => {
      for (let span = spanAt(layerOffset, start); span < count && layerOffset[span]! < end; span++) touched[span] = 1;
    });
    const buffer = new Uint8Array(1 << 20);
    for (let span = 0; span < count; span++) {
      if (touched[span] === 0) {
        counts.absent++;
        continue;
      }
      const [start, end] = [layerOffset[span]!, layerOffset[span + 1]!];
      const blocks = blockCheck(table, span);
      if (blocks !== null && blocks.part !== null) {
        counts.absent++; // a part of a long block cannot be checked alone
        continue;
      }
      const whole = blocks === null ? null : new Uint8Array(end - start);
      let crc = 0;
      let at = start;
      while (at < end) {
        const n = readSync(fd, buffer, 0, Math.min(buffer.length, end - at), at);
        if (n === 0) break;
        if (whole === null) crc = crc32(buffer.subarray(0, n), crc);
        else whole.set(buffer.subarray(0, n), at - start);
        at += n;
      }
      const right = whole === null ? crc === table.crc32[span] : checkBlocks(whole, blocks!) === null;
      if (at === end && right) counts.intact++;
      else {
        counts.damaged++;
        punchHole(fd, start, end - start);
      }
      await onChecked(end - start);
    }
    return counts;
  } finally {
    closeSync(fd);
  }
}

/** The lock file's text outlives its writer: only a lock that is held means an owner. */
function livingOwner(directory: string): CacheOwner | null {
  let fd: number;
  try {
    fd = openSync(join(directory, 'lock'), 'r');
  } catch {
    return null;
  }
  try {
    return tryLock(fd) ? null : (readOwner(directory) ?? { pid: 0, name: 'unknown' });
  } finally {
    closeSync(fd);
  }
}
