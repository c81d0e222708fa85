import { EntryColumns, TarParser } from '../../src/tar/index.js';

export const latin1 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1');

/** One entry as its columns have it; texts are latin1. */
export interface ParsedEntry {
  path: string;
  mode: string;
  uid: number;
  gid: number;
  mtime: number;
  nsec: number;
  size: number;
  rdev: number;
  link: string;
  data: string;
  xattrs: Record<string, string>;
  extents: number[] | null;
}

/** Parses a tar in pieces of `chunk` bytes, through a transfer, and checks that data lies where the entries say. */
export function parseTar(archive: Uint8Array, chunk = Number.POSITIVE_INFINITY): ParsedEntry[] {
  const entries = new EntryColumns();
  const data: string[] = [];
  const parser = new TarParser({
    entries,
    data: (entry, view) => {
      data[entry] = (data[entry] ?? '') + latin1(view);
    },
  });
  for (let at = 0; at < archive.length; at += chunk)
    parser.push(archive.subarray(at, Math.min(archive.length, at + chunk)));
  parser.finish();
  if (parser.position !== archive.length) throw new Error(`parsed ${parser.position} of ${archive.length} bytes`);
  const { message } = entries.toTransfer();
  const e = EntryColumns.fromTransfer(structuredClone(message));
  return Array.from({ length: e.count }, (_, i) => {
    const extents = e.extents(i);
    const stored = extents === null ? e.size(i) : extents.reduce((sum, value, k) => sum + (k % 2 === 1 ? value : 0), 0);
    if ((e.mode(i) & 0o170000) === 0o100000) {
      const there = latin1(archive.subarray(e.dataOffset(i), e.dataOffset(i) + stored));
      if (there !== (data[i] ?? '')) throw new Error(`data of entry ${i} is not at ${e.dataOffset(i)}`);
    }
    return {
      path: latin1(e.arena.subarray(e.pathStart(i), e.pathEnd(i))),
      mode: e.mode(i).toString(8),
      uid: e.uid(i),
      gid: e.gid(i),
      mtime: e.mtime(i),
      nsec: e.mtimeNsec(i),
      size: e.size(i),
      rdev: e.rdev(i),
      link: latin1(e.arena.subarray(e.linkStart(i), e.linkEnd(i))),
      data: data[i] ?? '',
      xattrs: Object.fromEntries(e.xattrs(i).map(({ name, value }) => [latin1(name), latin1(value)])),
      extents: extents === null ? null : [...extents],
    };
  });
}
