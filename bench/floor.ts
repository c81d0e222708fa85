import { readFileSync } from 'node:fs';
import path from 'node:path';
import { openArchive } from '../src/archive/index.js';
import { ErofsReader } from '../src/erofs/index.js';
import { dropCaches, run } from './support.js';

/**
 * Runs in the image's own root file system, with the image's own python3. For each file below / with pages in the page cache it
 * prints the path (as JSON) and the ranges of those pages.
 */
const MINCORE = `
import ctypes, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
for base, dirs, files in os.walk(sys.argv[1]):
    for name in files:
        p = os.path.join(base, name)
        if os.path.islink(p) or not os.path.isfile(p): continue
        size = os.path.getsize(p)
        if size == 0: continue
        fd = os.open(p, os.O_RDONLY)
        at = libc.mmap(None, size, 1, 1, fd, 0)
        os.close(fd)
        pages = (size + 4095) // 4096
        held = ctypes.create_string_buffer(pages)
        if libc.mincore(at, size, held) == 0:
            ranges, start = [], None
            raw = held.raw
            for i in range(pages):
                if raw[i] & 1:
                    if start is None: start = i
                elif start is not None:
                    ranges.append([start, i]); start = None
            if start is not None: ranges.append([start, pages])
            if ranges: print(json.dumps([os.path.relpath(p, sys.argv[1]), size, ranges]))
        libc.munmap(at, size)
`;

interface Touched {
  readonly path: string;
  readonly size: number;
  /** [first, end) in pages of 4 KiB */
  readonly ranges: readonly (readonly [number, number])[];
}

/**
 * The least that a workload needs: the pages that it leaves in the page cache after a run in `rootfs` (an unpacked image) with
 * caches dropped before, and its own time there. The median of `rounds` for the time; the pages of the first round.
 */
export async function localRun(
  rootfs: string,
  command: readonly string[],
  rounds: number,
  start: (root: string, command: readonly string[]) => [string, readonly string[]] = (root, words) => [
    'chroot',
    [root, ...words],
  ],
): Promise<{ seconds: number[]; touched: Touched[] }> {
  const seconds: number[] = [];
  let touched: Touched[] = [];
  for (let round = 0; round < rounds; round++) {
    await run('sync', []);
    dropCaches();
    const ran = await run(...start(rootfs, command));
    seconds.push(ran.firstOutput);
    if (round > 0) continue;
    const { stdout } = await run('python3', ['-c', MINCORE, rootfs]).catch(async (error: unknown) => {
      // Not this machine's python3, which it may not have: the image's own, with the image as root.
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
      return await run('chroot', [rootfs, 'python3', '-c', MINCORE, '/']);
    });
    touched = stdout
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => {
        const [name, size, ranges] = JSON.parse(line) as [string, number, [number, number][]];
        return { path: name, size, ranges };
      });
  }
  return { seconds, touched };
}

/**
 * Compressed bytes of those pages. Each page range is found in its layer, and counts its share of its span, as if the span were
 * compressed evenly. Overlaps count once.
 */
export function compressedBytes(clip: string, touched: readonly Touched[]): { pages: number; spans: number } {
  const file = readFileSync(clip);
  const archive = openArchive({
    name: clip,
    size: file.length,
    readAt: (offset, length) => file.subarray(offset, offset + length),
  });
  const tree = new ErofsReader(archive.tree);
  const extents: [number, number][][] = archive.layers.map(() => []);
  for (const { path: name, size, ranges } of touched) {
    const nid = find(tree, name);
    if (nid < 0) continue; // written by the run itself
    for (const [first, end] of ranges) {
      const length = Math.min(end * 4096, size) - first * 4096;
      tree.mapRange(nid, first * 4096, length, (layer, offset, bytes) => {
        if (layer >= 0) extents[layer]!.push([offset, offset + bytes]);
      });
    }
  }
  let pages = 0;
  let spans = 0;
  archive.layers.forEach(({ table }, layer) => {
    const merged = extents[layer]!.sort((a, b) => a[0] - b[0]);
    const used = new Set<number>();
    let reached = 0;
    let span = 0;
    for (const [from, to] of merged) {
      for (let at = Math.max(from, reached); at < to; ) {
        while (table.layerOffset[span + 1]! <= at) span++;
        const until = Math.min(to, table.layerOffset[span + 1]!);
        const share = (until - at) / (table.layerOffset[span + 1]! - table.layerOffset[span]!);
        pages += (share * (table.bitOffset[span + 1]! - table.bitOffset[span]!)) / 8;
        used.add(span);
        at = until;
      }
      reached = Math.max(reached, to);
    }
    for (const s of used) spans += Math.ceil((table.bitOffset[s + 1]! - table.bitOffset[s]!) / 8);
  });
  return { pages, spans };
}

function find(tree: ErofsReader, name: string): number {
  let nid = tree.rootNid;
  for (const part of name.split(path.sep)) {
    if (nid < 0) return nid;
    const bytes = Buffer.from(part);
    nid = tree.lookup(nid, bytes, 0, bytes.length);
  }
  return nid;
}
