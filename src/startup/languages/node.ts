import { posix } from 'node:path';
import type { TreeListing } from '../../erofs/index.js';
import { directoryOf, type Language, type LinkSink, type Programs, type Resolver } from './language.js';
import { mappedTarget, type PackageFile, packageText, type RequestKind, readPackage } from './node-packages.js';
import { nodeRequests } from './node-requests.js';

/** A longer package.json is a generated one. */
const HEAD_BYTES = 32 * 1024;
/** Requests come first in a module. Of an image with much JavaScript a longer part would cost more time than decompressing it. */
const REQUEST_BYTES = 8 * 1024;
const PACKAGE = '/package.json';
/** What Node tries behind a name (LOAD_AS_FILE), and in a directory (LOAD_INDEX). */
const ENDINGS = ['', '.js', '.json', '.node'];
const INDEXES = ['index.js', 'index.json', 'index.node'];
/** Debian's Node looks here besides: modules of its packages. Elsewhere they do not exist. */
const GLOBAL = ['/usr/share/nodejs', '/usr/lib/nodejs', '/usr/share/javascript'];

/**
 * Modules lead to the modules that they require or import (CommonJS and ES modules, `exports`, `imports`, `main`), and to the
 * package.json files that Node reads on the way.
 */
export const node: Language = {
  name: 'node',
  endings: ['.js', '.cjs', '.mjs', PACKAGE],
  interpreters: /^node(js)?$/,
  headBytes: HEAD_BYTES,
  tailBytes: 0,
  scan({ head, size }) {
    if (head[0] === 0x7b) {
      // "{": no module begins like this.
      const text = size > head.length ? null : packageText(head);
      return text === null ? null : [text];
    }
    const requests = nodeRequests(head.subarray(0, REQUEST_BYTES));
    return requests.length === 0 ? null : requests;
  },
  resolver: (tree) => new NodeResolver(tree),
};

const NONE: readonly number[] = [];
const NO_PACKAGE: PackageFile = { name: null, main: null, exports: null, imports: null };

/** "@scope/name/a/b" → "@scope/name", "a/b". */
function splitSpecifier(specifier: string): [name: string, subpath: string] {
  const first = specifier.indexOf('/');
  const end = specifier.startsWith('@') && first >= 0 ? specifier.indexOf('/', first + 1) : first;
  return end < 0 ? [specifier, ''] : [specifier.slice(0, end), specifier.slice(end + 1)];
}

/** A directory in which requests are resolved, with what was found for those of its modules. */
interface Place {
  readonly path: string;
  /** Null: there is no such directory. */
  readonly names: ReadonlyMap<string, number> | null;
  /** Its package.json; −1 if it has none. */
  readonly json: number;
  /** By request. */
  readonly found: Map<string, readonly number[]>;
  /** Packages by name and subpath, from here upwards. */
  readonly bare: Map<string, readonly number[]>;
  /** Directories by the path from here. */
  readonly relative: Map<string, Place>;
}

class NodeResolver implements Resolver {
  readonly #tree: TreeListing;
  /** By path, because an upper layer's file replaces a lower one's. */
  readonly #modules = new Map<string, readonly string[]>();
  readonly #texts = new Map<string, string>();
  /** By the nid of the package.json: packages are reached through links, too. */
  readonly #packages = new Map<number, PackageFile>();
  readonly #places = new Map<string, Place>();

  constructor(tree: TreeListing) {
    this.#tree = tree;
  }

  add(path: string, found: readonly string[]): void {
    if (path.endsWith(PACKAGE) && found[0]?.startsWith('{')) this.#texts.set(path, found[0]);
    else this.#modules.set(path, found);
  }

  link(links: LinkSink, _programs: Programs): void {
    for (const [path, text] of this.#texts) {
      const nid = this.#place(directoryOf(path)).json;
      if (nid >= 0) this.#packages.set(nid, readPackage(text));
    }
    for (const [path, requests] of this.#modules) {
      const place = this.#place(directoryOf(path));
      const from = this.#file(place, path.slice(path.lastIndexOf('/') + 1));
      if (from < 0) continue;
      if (place.json >= 0) links.add(from, place.json);
      for (const request of requests) for (const to of this.#request(place, request)) links.add(from, to);
    }
    // A package's file is read to find its main module.
    for (const path of this.#texts.keys()) {
      const place = this.#place(directoryOf(path));
      if (place.json < 0) continue;
      for (const to of this.#package(place, '', 'r')) if (to !== place.json) links.add(place.json, to);
    }
  }

  #place(path: string): Place {
    let place = this.#places.get(path);
    if (place === undefined) {
      const names = this.#tree.list(path);
      const json = names === null ? -1 : this.#tree.fileIn(path, names, 'package.json');
      place = { path, names, json, found: new Map(), bare: new Map(), relative: new Map() };
      this.#places.set(path, place);
    }
    return place;
  }

  #from(place: Place, relative: string): Place {
    if (relative === './') return place;
    let found = place.relative.get(relative);
    if (found === undefined) {
      found = this.#place(posix.resolve(place.path, relative));
      place.relative.set(relative, found);
    }
    return found;
  }

  #file({ path, names }: Place, name: string): number {
    return names === null ? -1 : this.#tree.fileIn(path, names, name);
  }

  /** LOAD_AS_FILE. */
  #asFile(place: Place, name: string): number {
    for (const ending of ENDINGS) {
      const found = this.#file(place, name + ending);
      if (found >= 0) return found;
    }
    return -1;
  }

  /** LOAD_INDEX. */
  #asIndex(place: Place): number {
    for (const name of INDEXES) {
      const found = this.#file(place, name);
      if (found >= 0) return found;
    }
    return -1;
  }

  /** The files that a request of a module in a directory leads to. */
  #request(place: Place, request: string): readonly number[] {
    let files = place.found.get(request);
    if (files === undefined) {
      files = this.#resolve(place, request.slice(1), request.startsWith('i') ? 'i' : 'r');
      place.found.set(request, files);
    }
    return files;
  }

  #resolve(place: Place, specifier: string, kind: RequestKind): readonly number[] {
    if (/^\.{0,2}\/|^\.{1,2}$/.test(specifier)) return this.#path(place, specifier, kind);
    const scope = this.#scopeOf(place);
    const own = scope === null ? NO_PACKAGE : this.#packageOf(scope.json);
    if (specifier.startsWith('#')) {
      const target = scope === null ? null : mappedTarget(own.imports, specifier, kind);
      if (target === null) return NONE;
      return target.startsWith('./') ? this.#only(scope!, target) : this.#bare(place, target, kind);
    }
    if (scope !== null && own.exports !== null) {
      const [name, subpath] = splitSpecifier(specifier);
      if (own.name === name) return this.#package(scope, subpath, kind);
    }
    return this.#bare(place, specifier, kind);
  }

  /** A package above a directory. */
  #bare(place: Place, specifier: string, kind: RequestKind): readonly number[] {
    const [name, subpath] = splitSpecifier(specifier);
    if (name === '' || name.startsWith('.') || name.includes('\0')) return NONE;
    const key = kind + specifier;
    const walked: Place[] = [];
    let files: readonly number[] | undefined;
    for (let at = place; ; at = this.#place(directoryOf(at.path))) {
      files = at.bare.get(key);
      if (files !== undefined) break;
      walked.push(at);
      // No "node_modules" is looked for in one.
      const modules = at.names?.has('node_modules') === true && !at.path.endsWith('/node_modules');
      files = modules ? this.#package(this.#from(at, `node_modules/${name}`), subpath, kind) : NONE;
      if (files.length === 0 && at.path === '/') files = this.#global(name, subpath, kind);
      if (files.length > 0 || at.path === '/') break;
    }
    for (const at of walked) at.bare.set(key, files);
    return files;
  }

  #global(name: string, subpath: string, kind: RequestKind): readonly number[] {
    for (const directory of GLOBAL) {
      if (this.#place(directory).names === null) continue;
      const found = this.#package(this.#place(`${directory}/${name}`), subpath, kind);
      if (found.length > 0) return found;
    }
    return NONE;
  }

  /** Its package.json, and the file of a subpath ('': the main module). */
  #package(place: Place, subpath: string, kind: RequestKind): readonly number[] {
    const { json } = place;
    if (place.names === null) {
      const file = subpath === '' ? this.#asFile(this.#from(place, '..'), nameOf(place.path)) : -1;
      return file < 0 ? NONE : [file];
    }
    const first = json < 0 ? [] : [json];
    const { exports, main } = json < 0 ? NO_PACKAGE : this.#packageOf(json);
    if (exports !== null) {
      const target = mappedTarget(exports, subpath === '' ? '.' : `./${subpath}`, kind);
      return target?.startsWith('./') ? [...first, ...this.#only(place, target)] : first;
    }
    const file = subpath === '' ? this.#main(place, main) : this.#fileOrDirectory(place, subpath);
    return file < 0 ? first : [...first, file];
  }

  /** A file by its path from a directory. */
  #path(place: Place, specifier: string, kind: RequestKind): readonly number[] {
    const name = nameOf(specifier);
    if (!isDots(name)) {
      const file = this.#asFile(this.#from(place, specifier.slice(0, -name.length)), name);
      if (file >= 0) return [file];
    }
    if (kind === 'i') return NONE;
    const directory = this.#from(place, specifier);
    if (directory.names === null) return NONE;
    const { json } = directory;
    const found = this.#main(directory, json < 0 ? null : this.#packageOf(json).main);
    return [...(json < 0 ? [] : [json]), ...(found < 0 ? [] : [found])];
  }

  #fileOrDirectory(place: Place, subpath: string): number {
    const path = posix.normalize(`${place.path}/${subpath}`);
    const name = nameOf(path);
    const file = name === '' ? -1 : this.#asFile(this.#place(directoryOf(path)), name);
    const directory = file >= 0 ? null : this.#place(path);
    if (directory === null || directory.names === null) return file;
    return this.#main(directory, directory.json < 0 ? null : this.#packageOf(directory.json).main);
  }

  /** LOAD_AS_DIRECTORY, with `main` of its package.json. */
  #main(place: Place, main: string | null): number {
    if (main !== null && main !== '') {
      const path = posix.resolve(place.path, main);
      const file = this.#asFile(this.#place(directoryOf(path)), nameOf(path));
      if (file >= 0) return file;
      const index = this.#asIndex(this.#place(path));
      if (index >= 0) return index;
    }
    return this.#asIndex(place);
  }

  /** A file by its whole path from a directory. */
  #only(place: Place, path: string): readonly number[] {
    const file = this.#tree.resolve(posix.normalize(`${place.path}/${path}`));
    return file < 0 ? NONE : [file];
  }

  #packageOf(nid: number): PackageFile {
    return this.#packages.get(nid) ?? NO_PACKAGE;
  }

  /** LOOKUP_PACKAGE_SCOPE: the directory of the nearest package.json. */
  #scopeOf(place: Place): Place | null {
    for (let at = place; !at.path.endsWith('/node_modules'); at = this.#place(directoryOf(at.path))) {
      if (at.json >= 0) return at;
      if (at.path === '/') break;
    }
    return null;
  }
}

/** The part of a path behind its last slash. */
function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

function isDots(name: string): boolean {
  return name === '' || name === '.' || name === '..';
}
