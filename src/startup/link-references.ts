import { posix } from 'node:path';
import { type ImageMeta, REFERENCE_PAGE, type References } from '../archive/index.js';
import type { Nid } from '../bytes/index.js';
import type { TreeListing } from '../erofs/index.js';
import { type ErofsReader, firstByte, InodeView, type Placement } from '../erofs/index.js';
import type { EntryColumns } from '../tar/index.js';
import type { ElfNeeds } from './elf.js';
import { libraryCandidates, libraryDirectories, tripletOf } from './library-path.js';
import type { ModuleImports } from './python-imports.js';
import { PythonModules } from './python-modules.js';
import type { LayerReferences } from './reference-scanner.js';

/**
 * A library up to this size is read whole when it is loaded: relocations touch all of its data, and constructors and the first
 * calls touch much of its code. So is a somewhat larger program. Of larger files only the parts that every load touches count.
 */
const WHOLE_LIBRARY = 5 * 1024 * 1024;
const WHOLE_PROGRAM = 8 * 1024 * 1024;
/** Bytes of a large file's first segment (its tables), and at most of its data. */
const MAX_TABLES = 4 * 1024 * 1024;
const MAX_DATA = 2 * 1024 * 1024;
/** Bytes of its other segments, which hold their first functions or constants, besides their last page. */
const SEGMENT_START = 64 * 1024;

export interface ScannedLayer {
  readonly entries: EntryColumns;
  readonly references: LayerReferences;
  readonly imports: readonly ModuleImports[];
}

export interface ElfFile {
  readonly nid: Nid;
  readonly path: string;
  readonly size: number;
  readonly needs: ElfNeeds;
}

/** The programs and libraries of the merged tree, from the scans of their layers. */
export function elfFiles(
  reader: ErofsReader,
  listing: TreeListing,
  placement: Placement | null,
  layers: readonly ScannedLayer[],
): ElfFile[] {
  const inode = new InodeView();
  const elf: ElfFile[] = [];
  for (const [layer, { entries, references }] of layers.entries()) {
    const paths = new Paths(entries);
    for (const { entry, needs } of references.elf) {
      const path = paths.of(entry);
      const slash = path.lastIndexOf('/');
      const nid = listing.list(slash === 0 ? '/' : path.slice(0, slash))?.get(path.slice(slash + 1)) ?? -1;
      if (nid < 0) continue;
      reader.inode(nid, inode);
      if (!inode.isFile) continue;
      // The merged tree may have another file there.
      const place = firstByte(reader, placement, nid, inode.size);
      if (place?.layer !== layer || place.layerOffset !== entries.dataOffset(entry)) continue;
      elf.push({ nid, path, size: inode.size, needs });
    }
  }
  return elf;
}

/** The files that lead to others, from the scans of the layers: the archive's `references`. Null if there are none. */
export function linkReferences(
  image: ImageMeta,
  listing: TreeListing,
  elf: readonly ElfFile[],
  layers: readonly ScannedLayer[],
): References | null {
  const python = new PythonModules(listing);
  for (const { entries, imports } of layers) {
    const paths = new Paths(entries);
    for (const module of imports) python.add(paths.of(module.entry), module.imports);
  }
  const links = new Links();
  linkLibraries(links, elf, listing, libraryDirectories(image.platform.architecture));
  const checked = layers.some(({ references }) => references.checked);
  python.link((from, to) => links.add(from, to), checked);
  linkPrograms(links, elf, listing, python, tripletOf(image.platform.architecture));
  for (const file of elf) links.range(file.nid, rangesOf(file));
  return links.finish();
}

/** Absolute paths of a layer's entries. */
class Paths {
  readonly #entries: EntryColumns;
  readonly #arena: Buffer;

  constructor(entries: EntryColumns) {
    this.#entries = entries;
    const { arena } = entries;
    this.#arena = Buffer.from(arena.buffer, arena.byteOffset, arena.length);
  }

  of(entry: number): string {
    const raw = this.#arena.toString('latin1', this.#entries.pathStart(entry), this.#entries.pathEnd(entry));
    const plain = raw.startsWith('./') ? raw.slice(1) : `/${raw}`;
    const odd = plain.includes('/.') || plain.includes('//') || plain.endsWith('/');
    return odd ? posix.normalize(plain) : plain;
  }
}

/** Shared libraries, the loader, and the loader's own files (its cache). */
function linkLibraries(
  links: Links,
  elf: readonly ElfFile[],
  listing: TreeListing,
  directories: readonly string[],
): void {
  const byName = new Map<string, number>();
  for (const { path, nid } of elf) {
    const name = path.slice(path.lastIndexOf('/') + 1);
    if (!byName.has(name)) byName.set(name, nid);
  }
  /** Files by names that are looked up in the same directories for every file. */
  const common = new Map<string, number>();
  const lookFor = (name: string, searchPath: readonly string[], path: string): number => {
    for (const candidate of libraryCandidates(name, searchPath, posix.dirname(path), directories)) {
      const found = listing.resolve(candidate);
      if (found >= 0) return found;
    }
    // In another directory of /etc/ld.so.conf: found by its name alone.
    return byName.get(posix.basename(name)) ?? -1;
  };
  const cache = listing.resolve('/etc/ld.so.cache');
  for (const { nid, path, needs } of elf) {
    const loader = needs.interpreter === null ? -1 : listing.resolve(needs.interpreter);
    if (loader >= 0) {
      links.add(nid, loader);
      if (cache >= 0) links.add(loader, cache);
    }
    for (const name of needs.needed) {
      const alike = needs.searchPath.length === 0;
      const library = (alike ? common.get(name) : undefined) ?? lookFor(name, needs.searchPath, path);
      if (alike) common.set(name, library);
      if (library >= 0) links.add(nid, library);
    }
  }
}

/** The modules that a Python interpreter opens before it runs a program. */
function linkPrograms(
  links: Links,
  elf: readonly ElfFile[],
  listing: TreeListing,
  python: PythonModules,
  triplet: string | null,
): void {
  for (const { nid, path } of elf) {
    const version = path.includes('/python') ? /^python(\d+)\.(\d+)$/.exec(posix.basename(path)) : null;
    if (version === null) continue;
    const files = [
      '/usr/lib/locale/C.utf8/LC_CTYPE',
      ...(triplet === null ? [] : [`/usr/lib/${triplet}/gconv/gconv-modules.cache`]),
      '/etc/localtime',
    ];
    for (const file of files) {
      const found = listing.resolve(file);
      if (found >= 0) links.add(nid, found);
    }
    const library = `${posix.dirname(posix.dirname(path))}/lib/${version[0]}`;
    // Since 3.11 the others are part of the program ("frozen": bpo-45020).
    const more =
      Number(version[2]) >= 11 ? [] : ['codecs', 'io', 'abc', 'site', 'os', 'stat', 'posixpath', 'genericpath'];
    for (const module of ['encodings', 'encodings.aliases', 'encodings.utf_8', ...more, 'sitecustomize']) {
      for (const target of python.find(library, module)) links.add(nid, target);
    }
  }
}

/** Ranges in pages; none for a file that is read whole. */
function rangesOf({ size, needs }: ElfFile): number[] {
  if (size <= (needs.interpreter === null ? WHOLE_LIBRARY : WHOLE_PROGRAM)) return [];
  const ranges: number[] = [];
  const add = (offset: number, length: number): void => {
    const first = Math.floor(offset / REFERENCE_PAGE);
    const end = Math.ceil(Math.min(size, offset + length) / REFERENCE_PAGE);
    if (end > first) ranges.push(first, end - first);
  };
  for (const [i, { offset, fileSize, writable }] of needs.segments.entries()) {
    if (offset + fileSize > size || fileSize === 0) continue;
    if (i === 0) add(offset, Math.min(fileSize, MAX_TABLES));
    else if (writable) add(offset, Math.min(fileSize, MAX_DATA));
    else {
      add(offset, Math.min(fileSize, SEGMENT_START));
      add(offset + fileSize - 1, 1);
    }
  }
  return ranges;
}

/** Links between files, in the order in which they were found. */
class Links {
  /** Files get numbers in the order of their first mention. */
  readonly #number = new Map<number, number>();
  readonly #nids: number[] = [];
  readonly #targets: number[][] = [];
  readonly #ranges: (readonly number[])[] = [];

  #of(nid: Nid): number {
    let number = this.#number.get(nid);
    if (number === undefined) {
      number = this.#nids.push(nid) - 1;
      this.#number.set(nid, number);
      this.#targets.push([]);
      this.#ranges.push([]);
    }
    return number;
  }

  add(from: number, to: number): void {
    if (from !== to) this.#targets[this.#of(from)]!.push(this.#of(to));
  }

  /** Also registers the file. */
  range(nid: Nid, ranges: readonly number[]): void {
    this.#ranges[this.#of(nid)] = ranges;
  }

  finish(): References | null {
    const count = this.#nids.length;
    if (count === 0) return null;
    const nids = this.#nids;
    const order = Uint32Array.from(nids.keys()).sort((a, b) => nids[a]! - nids[b]!);
    const position = new Uint32Array(count);
    for (const [i, number] of order.entries()) position[number] = i;
    const [firstTarget, firstRange] = [new Uint32Array(count + 1), new Uint32Array(count + 1)];
    const [target, range]: [number[], number[]] = [[], []];
    /** The file that last led to each file. */
    const seen = new Int32Array(count).fill(-1);
    for (let i = 0; i < count; i++) {
      const number = order[i]!;
      for (const to of this.#targets[number]!) {
        if (seen[to] === i) continue;
        seen[to] = i;
        target.push(position[to]!);
      }
      for (const page of this.#ranges[number]!) range.push(page);
      firstTarget[i + 1] = target.length;
      firstRange[i + 1] = range.length;
    }
    return {
      count,
      nid: Float64Array.from(order, (number) => nids[number]!),
      firstTarget,
      target: Uint32Array.from(target),
      firstRange,
      range: Uint32Array.from(range),
    };
  }
}
