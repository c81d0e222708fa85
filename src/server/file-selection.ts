import type { Archive } from '../archive/index.js';
import type { Nid } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import { ErofsReader, FT, InodeView, mapFileRange, resolvePath, WalkLimit } from '../erofs/index.js';
import type { TouchedRange } from '../lazy/index.js';

/** Directory entries that are read between two turns of the event loop. This takes some milliseconds, for which a reader may wait. */
const ENTRIES_PER_TURN = 2000;

interface Entry {
  readonly nid: Nid;
  readonly type: number;
  readonly name: string;
}

/**
 * Where the bytes of files lie: `patterns` are paths of the image (a directory stands for all below it; symbolic links are
 * followed inside the image) or globs (`*`, `?`, `[…]`, `{…}`, and `**` over directories). In the order of the patterns, and
 * within one in the tree's.
 * @throws ClipError NOT_FOUND naming the first pattern that matches nothing
 */
export async function rangesOfFiles(archive: Archive, patterns: readonly string[]): Promise<TouchedRange[]> {
  const selection = new FileSelection(archive);
  for (const pattern of patterns) {
    const before = selection.matches;
    selection.nextPattern();
    const nid = selection.resolve(pattern);
    if (nid >= 0) await selection.addTree(nid);
    else await selection.addMatching(pattern);
    if (selection.matches > before) continue;
    throw new ClipError('NOT_FOUND', `no ${pattern} in ${archive.image.reference}`, {
      hint: 'paths are those inside the image: clipctl ls shows them; quote globs, or the shell expands them',
    });
  }
  return selection.ranges;
}

class FileSelection {
  readonly ranges: TouchedRange[] = [];
  /** Files and directories that the patterns named, empty ones and repeated ones too. */
  matches = 0;
  readonly #archive: Archive;
  readonly #reader: ErofsReader;
  readonly #inode = new InodeView();
  readonly #seen = new Set<number>();
  #looked = 0;
  /** Of the walks for one pattern, which meet each entry once. */
  #limit: WalkLimit;

  constructor(archive: Archive) {
    this.#archive = archive;
    this.#reader = new ErofsReader(archive.tree);
    this.#limit = new WalkLimit(this.#reader);
  }

  nextPattern(): void {
    this.#limit = new WalkLimit(this.#reader);
  }

  resolve(path: string): number {
    return resolvePath(this.#reader, Buffer.from(path), true);
  }

  /** A file, or all below a directory. */
  async addTree(nid: Nid): Promise<void> {
    this.matches++;
    this.#reader.inode(nid, this.#inode);
    if (!this.#inode.isDirectory) {
      this.#addFile(nid);
      return;
    }
    const todo = [nid];
    for (let directory = todo.pop(); directory !== undefined; directory = todo.pop()) {
      const below: number[] = [];
      for (const entry of await this.#entries(directory)) {
        if (entry.type === FT.directory) below.push(entry.nid);
        else this.#addFile(entry.nid);
      }
      todo.push(...below.reverse());
    }
  }

  async addMatching(pattern: string): Promise<void> {
    const { default: picomatch } = await import('picomatch');
    const absolute = pattern.startsWith('/') ? pattern : `/${pattern}`;
    const { base, glob } = picomatch.scan(absolute);
    if (glob === '') return;
    // Hidden files are files; "!" and "(" stand for themselves in names far more often than they negate.
    const matches = picomatch(absolute, { dot: true, nonegate: true, noextglob: true });
    const top = this.resolve(base);
    if (top < 0) return;
    const todo = [{ nid: top, path: base === '/' ? '' : base.replace(/\/+$/, '') }];
    for (let at = todo.pop(); at !== undefined; at = todo.pop()) {
      const below: typeof todo = [];
      for (const { nid, type, name } of await this.#entries(at.nid)) {
        const path = `${at.path}/${name}`;
        if (matches(path)) await this.#addMatch(nid, type, path);
        else if (type === FT.directory) below.push({ nid, path });
      }
      todo.push(...below.reverse());
    }
  }

  async #addMatch(nid: Nid, type: number, path: string): Promise<void> {
    if (type !== FT.symlink) return this.addTree(nid);
    const target = this.resolve(path);
    this.matches++;
    if (target < 0) return;
    // A link to a directory would add files that the pattern does not name.
    this.#reader.inode(target, this.#inode);
    if (this.#inode.isFile) this.#addFile(target);
  }

  async #entries(directory: number): Promise<Entry[]> {
    this.#reader.inode(directory, this.#inode);
    if (!this.#inode.isDirectory) return [];
    const entries: Entry[] = [];
    this.#reader.readdir(directory, 0, (nid, type, start, end) => {
      const name = Buffer.from(this.#reader.image.subarray(start, end)).toString('utf8');
      if (name !== '.' && name !== '..') entries.push({ nid, type, name });
      return true;
    });
    this.#limit.visit(entries.length);
    this.#looked += entries.length;
    if (this.#looked >= ENTRIES_PER_TURN) {
      this.#looked = 0;
      await new Promise((resolve) => setImmediate(resolve));
    }
    return entries;
  }

  #addFile(nid: Nid): void {
    if (this.#seen.has(nid)) return;
    this.#seen.add(nid);
    this.#reader.inode(nid, this.#inode);
    if (!this.#inode.isFile) return;
    const { size } = this.#inode;
    mapFileRange(this.#reader, this.#archive.placement, this.#inode, nid, 0, size, (layer, start, length) => {
      if (layer >= 0) this.ranges.push({ layer, start, end: start + length });
    });
  }
}
