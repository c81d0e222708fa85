import { posix } from 'node:path';
import { type ImageMeta, REFERENCE_PAGE, type References, SEGMENT_START } from '../archive/index.js';
import type { TreeListing } from '../erofs/index.js';
import { type ErofsReader, firstByte, InodeView, type Placement } from '../erofs/index.js';
import type { EntryColumns } from '../tar/index.js';
import { linkReadingFunctions } from './c-library.js';
import type { ElfFile } from './elf.js';
import type { FoundNames } from './found-names.js';
import { LANGUAGES, languageOf } from './languages/languages.js';
import { libraryCandidates, libraryDirectories, tripletOf } from './library-path.js';
import { Links } from './links.js';
import { type FindLibrary, linkNamed } from './named-files.js';
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
/** Of each part that the loader goes through when it relocates: torch's libraries have up to 8 MiB of relocations, for 7 MiB of constants. */
const MAX_RELOCATED = 16 * 1024 * 1024;

export interface ScannedLayer {
  readonly entries: EntryColumns;
  readonly references: LayerReferences;
  readonly names: readonly FoundNames[];
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
      elf.push({ nid, path, size: inode.size, layer, needs });
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
  const resolvers = new Map(LANGUAGES.map((language) => [language.name, language.resolver(listing)]));
  const scripts: string[] = [];
  for (const { entries, names, references } of layers) {
    const paths = new Paths(entries);
    for (const { entry, language, names: found } of names) {
      const path = paths.of(entry);
      if (!isTemplate(path)) resolvers.get(language)?.add(path, found);
    }
    for (const { entry } of references.scripts) scripts.push(paths.of(entry));
  }
  const links = new Links();
  const library = libraryFinder(listing, elf, libraryDirectories(image.platform.architecture));
  linkLibraries(links, elf, listing, library);
  linkReadingFunctions(links, elf, listing, image);
  const checked = layers.some(({ references }) => references.checked);
  const programs = { elf, triplet: tripletOf(image.platform.architecture), checked };
  for (const resolver of resolvers.values()) resolver.link(links, programs);
  linkNamed(links, elf, scripts, listing, library);
  for (const file of elf) links.range(file.nid, rangesOf(file));
  return links.finish();
}

/**
 * A script without its language's ending among the data of all machines (FHS, "/usr/share"), and not where programs are: a template, such as those of
 * git's hooks. It is read to be copied, and what it would run is not wanted.
 */
function isTemplate(path: string): boolean {
  if (!path.startsWith('/usr/share/') || /\/s?bin\//.test(path)) return false;
  return languageOf(path) === null;
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

function libraryFinder(listing: TreeListing, elf: readonly ElfFile[], directories: readonly string[]): FindLibrary {
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
  return (name, { path, needs }) => {
    const alike = needs.searchPath.length === 0;
    const library = (alike ? common.get(name) : undefined) ?? lookFor(name, needs.searchPath, path);
    if (alike) common.set(name, library);
    return library;
  };
}

/** Shared libraries, the loader, and the loader's own files (its cache). */
function linkLibraries(links: Links, elf: readonly ElfFile[], listing: TreeListing, library: FindLibrary): void {
  const cache = listing.resolve('/etc/ld.so.cache');
  for (const file of elf) {
    const { nid, needs } = file;
    const loader = needs.interpreter === null ? -1 : listing.resolve(needs.interpreter);
    if (loader >= 0) {
      links.add(nid, loader);
      if (cache >= 0) links.add(loader, cache);
    }
    for (const name of needs.needed) {
      const found = library(name, file);
      if (found >= 0) links.add(nid, found);
    }
  }
}

/** Parts of a file that is relocated at the most: an archive's author may name any number. */
const MAX_RELOCATED_PARTS = 8;

/** Ranges in pages; none for a file that is read whole. */
export function rangesOf({ size, needs }: Pick<ElfFile, 'size' | 'needs'>): number[] {
  const relocated = needs.relocated.slice(0, 2 * MAX_RELOCATED_PARTS);
  if (size <= (needs.interpreter === null ? WHOLE_LIBRARY : WHOLE_PROGRAM)) return [];
  const ranges: number[] = [];
  const add = (offset: number, length: number): void => {
    const first = Math.floor(offset / REFERENCE_PAGE);
    const end = Math.ceil(Math.min(size, offset + length) / REFERENCE_PAGE);
    if (end > first) ranges.push(first, end - first);
  };
  for (const [i, { offset, fileSize, writable }] of needs.segments.entries()) {
    if (offset + fileSize > size || fileSize === 0) continue;
    if (i === 0) {
      const tables = Math.min(fileSize, MAX_TABLES);
      add(offset, tables);
      // Before the segments, whose two ranges stand together.
      for (let part = 0; part < relocated.length; part += 2) {
        const [from, length] = [relocated[part]!, Math.min(relocated[part + 1]!, MAX_RELOCATED)];
        const known = from >= offset ? Math.max(0, Math.min(length, offset + tables - from)) : 0;
        add(from + known, length - known);
      }
    } else if (writable) add(offset, Math.min(fileSize, MAX_DATA));
    else {
      add(offset, Math.min(fileSize, SEGMENT_START));
      add(offset + fileSize - 1, 1);
    }
  }
  return ranges;
}
