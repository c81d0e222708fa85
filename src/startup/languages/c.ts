import { posix } from 'node:path';
import type { TreeListing } from '../../erofs/index.js';
import { byteAt, hasAt, Words } from '../text-search.js';
import { directoryOf, type Language, type LinkSink, type Programs, type Resolver } from './language.js';

/** Headers include others at their beginnings, and some at their end: glibc's stdlib.h has 36 kB. */
const HEAD_BYTES = 64 * 1024;
const MAX_INCLUDES = 256;
const [WORDS, INCLUDE] = [new Words('incl'), Buffer.from('include')];
const [NEWLINE, HASH, SPACE, TAB, QUOTE, LESS, GREATER] = [0x0a, 0x23, 0x20, 0x09, 0x22, 0x3c, 0x3e];
const MAX_LINE = 300;
const MAX_NAME = 200;
const NAME = Uint8Array.from({ length: 256 }, (_, byte) =>
  byte < 0x80 && /[\w./+-]/.test(String.fromCharCode(byte)) ? 1 : 0,
);
const SOURCE = /\.(?:c|cc|cpp|cxx)$/;
/** GCC includes it in every source (its manual, "Preprocessor Options"). */
const FIRST = '<stdc-predef.h';
/** Versions of a compiler in one image. */
const MAX_VERSIONS = 16;

/**
 * Sources and headers of C, and sources of C++, lead to the headers that they include. C++ names its own headers without an ending, so
 * they cannot be told from other files, and ".hpp" alone would cost more than it gives: an image with Boost has 16,000 of them.
 */
export const c: Language = {
  name: 'c',
  endings: ['.h', '.c', '.cc', '.cpp', '.cxx'],
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
    const line = directiveAt(source, at);
    if (line < 0 || !hasAt(source, at, INCLUDE)) continue;
    const start = afterBlanks(source, at + INCLUDE.length);
    const opening = byteAt(source, start);
    if (opening !== QUOTE && opening !== LESS) continue;
    const last = Math.min(source.length, start + 1 + MAX_NAME, line + MAX_LINE - 1);
    let end = start + 1;
    while (end < last && NAME[source[end]!] === 1) end++;
    const closing = byteAt(source, end);
    if (end > start + 1 && (closing === GREATER || closing === QUOTE)) found.add(source.toString('latin1', start, end));
  }
  return [...found];
}

/** The beginning of the line whose directive's name is at a place, with nothing but "#" and blanks before it; -1 if there is none. */
function directiveAt(source: Buffer, at: number): number {
  const hash = beforeBlanks(source, at) - 1;
  if (byteAt(source, hash) !== HASH) return -1;
  const line = beforeBlanks(source, hash);
  return at - line <= MAX_LINE && (line === 0 || source[line - 1] === NEWLINE) ? line : -1;
}

/** In as many steps as a line may have: the time for a file stays linear in its size. */
function beforeBlanks(source: Buffer, at: number): number {
  const first = Math.max(0, at - MAX_LINE);
  let start = at;
  while (start > first && isBlank(source[start - 1]!)) start--;
  return start;
}

function afterBlanks(source: Buffer, at: number): number {
  const last = Math.min(source.length, at + MAX_LINE);
  let end = at;
  while (end < last && isBlank(source[end]!)) end++;
  return end;
}

function isBlank(byte: number): boolean {
  return byte === SPACE || byte === TAB;
}

/** A directory, and the directories that its files name headers in. */
interface Place {
  readonly path: string;
  /** Null: there is no such directory. */
  readonly names: ReadonlyMap<string, number> | null;
  /** By the path from here. */
  readonly below: Map<string, Place>;
  /** By what is included in quotes here. */
  readonly found: Map<string, number>;
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
        const to = include.charCodeAt(0) === QUOTE ? this.#quoted(place, include) : this.#header(include);
        if (to >= 0 && to !== from) links.add(from, to);
      }
    }
  }

  #quoted(place: Place, include: string): number {
    let found = place.found.get(include);
    if (found === undefined) {
      const beside = this.#file(place, include.slice(1));
      found = beside >= 0 ? beside : this.#header(`<${include.slice(1)}`);
      place.found.set(include, found);
    }
    return found;
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
      place = { path, names: this.#tree.list(path), below: new Map(), found: new Map() };
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

  /** A header by its include, "<stdio.h". */
  #header(include: string): number {
    const known = this.#known.get(include);
    if (known !== undefined) return known;
    const name = include.slice(1);
    let found = -1;
    for (const directory of name.split('/').includes('..') ? [] : this.#directories) {
      found = this.#file(directory, name);
      if (found >= 0) break;
    }
    this.#known.set(include, found);
    return found;
  }
}
