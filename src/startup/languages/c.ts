import { posix } from 'node:path';
import type { TreeListing } from '../../erofs/index.js';
import { Words } from '../text-search.js';
import { directoryOf, type Language, type LinkSink, type Programs, type Resolver } from './language.js';

/** Headers include others at their beginnings, and some at their end: glibc's stdlib.h has 36 kB. */
const HEAD_BYTES = 64 * 1024;
const MAX_INCLUDES = 256;
const WORDS = new Words('incl');
const [NEWLINE, HASH] = [0x0a, 0x23];
const MAX_LINE = 300;
const INCLUDE = /^[ \t]*#[ \t]*include[ \t]*([<"])([\w./+-]{1,200})[>"]/;
const SOURCE = /\.(?:c|cc|cpp|cxx)$/;
/** GCC includes it in every source (its manual, "Preprocessor Options"). */
const FIRST = 'stdc-predef.h';
/** Versions of a compiler in one image. */
const MAX_VERSIONS = 16;

/** Sources and headers of C and C++ lead to the headers that they include. */
export const c: Language = {
  name: 'c',
  endings: ['.h', '.c', '.cc', '.cpp', '.cxx', '.hpp', '.hh'],
  interpreters: null,
  headBytes: HEAD_BYTES,
  tailBytes: 0,
  scan({ head }) {
    const includes = includesOf(head);
    return includes.length === 0 ? null : includes;
  },
  resolver: (tree) => new CResolver(tree),
};

/** `"` and the name of a header that is looked for beside the file first, or `<` and the name of another. */
function includesOf(source: Buffer): string[] {
  const found = new Set<string>();
  for (const hit of WORDS.find(source)) {
    if (found.size >= MAX_INCLUDES) break;
    const at = Words.position(hit);
    const line = source.lastIndexOf(NEWLINE, at) + 1;
    if (at - line > MAX_LINE || !source.subarray(line, at).includes(HASH)) continue;
    const match = INCLUDE.exec(source.toString('latin1', line, line + MAX_LINE));
    if (match !== null) found.add(`${match[1]}${match[2]}`);
  }
  return [...found];
}

/** A directory, and the directories that its files name headers in. */
interface Place {
  readonly path: string;
  /** Null: there is no such directory. */
  readonly names: ReadonlyMap<string, number> | null;
  /** By the path from here. */
  readonly below: Map<string, Place>;
}

/** By directories, because an image may have a hundred thousand includes: a path for each would take longer than finding the file. */
class CResolver implements Resolver {
  readonly #tree: TreeListing;
  /** By path, because an upper layer's file replaces a lower one's. */
  readonly #files = new Map<string, readonly string[]>();
  readonly #known = new Map<string, number>();
  readonly #places = new Map<string, Place>();
  #directories: readonly Place[] = [];

  constructor(tree: TreeListing) {
    this.#tree = tree;
  }

  add(path: string, found: readonly string[]): void {
    this.#files.set(path, found);
  }

  link(links: LinkSink, { triplet }: Programs): void {
    if (this.#files.size === 0) return;
    this.#directories = this.#searched(triplet).map((path) => this.#place(path));
    const first = this.#header(FIRST);
    for (const [path, includes] of this.#files) {
      const place = this.#place(directoryOf(path));
      const from = this.#file(place, path.slice(path.lastIndexOf('/') + 1));
      if (from < 0) continue;
      if (first >= 0 && SOURCE.test(path)) links.add(from, first);
      for (const include of includes) {
        const name = include.slice(1);
        const beside = include.startsWith('"') ? this.#file(place, name) : -1;
        const to = beside >= 0 ? beside : this.#header(name);
        if (to >= 0 && to !== from) links.add(from, to);
      }
    }
  }

  /** Where compilers look for headers, in the order of GCC (`gcc -v`), its own first. */
  #searched(triplet: string | null): string[] {
    const own: string[] = [];
    const targets = new Set(triplet === null ? [] : [triplet]);
    for (const target of this.#tree.list('/usr/lib/gcc')?.keys() ?? []) {
      if (targets.size < MAX_VERSIONS) targets.add(target);
      for (const version of this.#tree.list(`/usr/lib/gcc/${target}`)?.keys() ?? [])
        if (!version.startsWith('.') && own.length < MAX_VERSIONS)
          own.push(`/usr/lib/gcc/${target}/${version}/include`);
    }
    const machine = [...targets].map((target) => `/usr/include/${target}`);
    return [...own.sort().reverse(), '/usr/local/include', ...machine, '/usr/include'];
  }

  #place(path: string): Place {
    let place = this.#places.get(path);
    if (place === undefined) {
      place = { path, names: this.#tree.list(path), below: new Map() };
      this.#places.set(path, place);
    }
    return place;
  }

  /** The file of a name, which may have directories in it; -1 if there is none. */
  #file(place: Place, name: string): number {
    const slash = name.lastIndexOf('/');
    let at = place;
    if (slash > 0) {
      const between = name.slice(0, slash);
      const known = place.below.get(between);
      at = known ?? this.#place(posix.join(place.path, between));
      if (known === undefined) place.below.set(between, at);
    }
    return at.names === null ? -1 : this.#tree.fileIn(at.path, at.names, name.slice(slash + 1));
  }

  #header(name: string): number {
    const known = this.#known.get(name);
    if (known !== undefined) return known;
    let found = -1;
    for (const directory of name.split('/').includes('..') ? [] : this.#directories) {
      found = this.#file(directory, name);
      if (found >= 0) break;
    }
    this.#known.set(name, found);
    return found;
  }
}
