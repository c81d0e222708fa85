import { posix } from 'node:path';
import type { TreeListing } from '../../erofs/index.js';
import { directoryOf, type Language, type LinkSink, type Programs, type Resolver } from './language.js';
import {
  asFile,
  asIndex,
  mappedTarget,
  type PackageFile,
  packageText,
  parents,
  type RequestKind,
  readPackage,
} from './node-packages.js';
import { nodeRequests } from './node-requests.js';

/** A longer package.json is a generated one. */
const HEAD_BYTES = 32 * 1024;
/** Requests come first in a module. Of an image with much JavaScript a longer part would cost more time than decompressing it. */
const REQUEST_BYTES = 8 * 1024;
const PACKAGE = '/package.json';
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
      const text = size > head.length ? null : packageText(head.toString('utf8'));
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

class NodeResolver implements Resolver {
  readonly #tree: TreeListing;
  /** By path, because an upper layer's file replaces a lower one's. */
  readonly #modules = new Map<string, readonly string[]>();
  readonly #texts = new Map<string, string>();
  /** By the nid of the package.json: packages are reached through links, too. */
  readonly #packages = new Map<number, PackageFile>();
  /** Nearest package.json of a directory; −1: none. */
  readonly #scopes = new Map<string, number>();
  /** By directory, then request. */
  readonly #found = new Map<string, Map<string, readonly number[]>>();
  readonly #find = (path: string): number => this.#tree.resolve(path);

  constructor(tree: TreeListing) {
    this.#tree = tree;
  }

  add(path: string, found: readonly string[]): void {
    if (path.endsWith(PACKAGE) && found[0]?.startsWith('{')) this.#texts.set(path, found[0]);
    else this.#modules.set(path, found);
  }

  link(links: LinkSink, _programs: Programs): void {
    for (const [path, text] of this.#texts) {
      const nid = this.#find(path);
      if (nid >= 0) this.#packages.set(nid, readPackage(text));
    }
    for (const [path, requests] of this.#modules) {
      const from = this.#find(path);
      if (from < 0) continue;
      const directory = directoryOf(path);
      const own = this.#find(directory === '/' ? PACKAGE : directory + PACKAGE);
      if (own >= 0) links.add(from, own);
      for (const request of requests) for (const to of this.#request(directory, request)) links.add(from, to);
    }
    // A package's file is read to find its main module.
    for (const path of this.#texts.keys()) {
      const from = this.#find(path);
      if (from < 0) continue;
      for (const to of this.#package(directoryOf(path), '', 'r')) if (to !== from) links.add(from, to);
    }
  }

  /** The files that a request of a module in a directory leads to. */
  #request(directory: string, request: string): readonly number[] {
    let known = this.#found.get(directory);
    if (known === undefined) {
      known = new Map();
      this.#found.set(directory, known);
    }
    let files = known.get(request);
    if (files === undefined) {
      files = this.#resolve(directory, request.slice(1), request.startsWith('i') ? 'i' : 'r');
      known.set(request, files);
    }
    return files;
  }

  #resolve(directory: string, specifier: string, kind: RequestKind): readonly number[] {
    if (/^\.{0,2}\/|^\.{1,2}$/.test(specifier)) return this.#path(posix.resolve(directory, specifier), specifier, kind);
    const [name, subpath] = splitSpecifier(specifier);
    const scope = this.#scopeOf(directory);
    const own = scope === null ? NO_PACKAGE : this.#packageOf(scope.nid);
    if (specifier.startsWith('#')) {
      const target = scope === null ? null : mappedTarget(own.imports, specifier, kind);
      if (target === null) return NONE;
      return target.startsWith('./')
        ? this.#only(`${scope!.directory}/${target}`)
        : this.#bare(directory, target, kind);
    }
    if (scope !== null && own.name === name && own.exports !== null)
      return this.#package(scope.directory, subpath, kind);
    return this.#bare(directory, specifier, kind);
  }

  /** A package above a directory. */
  #bare(directory: string, specifier: string, kind: RequestKind): readonly number[] {
    const [name, subpath] = splitSpecifier(specifier);
    if (name === '' || name.startsWith('.') || name.includes('\0')) return NONE;
    for (const parent of parents(directory)) {
      const above = parent === '/' ? '' : parent;
      if (this.#tree.list(parent)?.has('node_modules') !== true) continue;
      const found = this.#package(`${above}/node_modules/${name}`, subpath, kind);
      if (found.length > 0) return found;
    }
    for (const place of GLOBAL) {
      if (this.#tree.list(place) === null) continue;
      const found = this.#package(`${place}/${name}`, subpath, kind);
      if (found.length > 0) return found;
    }
    return NONE;
  }

  /** Its package.json, and the file of a subpath ('': the main module). */
  #package(directory: string, subpath: string, kind: RequestKind): readonly number[] {
    if (this.#tree.list(directory) === null) {
      const file = subpath === '' ? asFile(this.#find, directory) : -1;
      return file < 0 ? NONE : [file];
    }
    const json = this.#find(directory + PACKAGE);
    const first = json < 0 ? [] : [json];
    const { exports, main } = json < 0 ? NO_PACKAGE : this.#packageOf(json);
    if (exports !== null) {
      const target = mappedTarget(exports, subpath === '' ? '.' : `./${subpath}`, kind);
      return target?.startsWith('./') ? [...first, ...this.#only(`${directory}/${target}`)] : first;
    }
    const file = subpath === '' ? this.#main(directory, main) : this.#fileOrDirectory(`${directory}/${subpath}`);
    return file < 0 ? first : [...first, file];
  }

  #path(path: string, specifier: string, kind: RequestKind): readonly number[] {
    const file = /(?:^|\/)\.{0,2}$/.test(specifier) ? -1 : asFile(this.#find, path);
    if (file >= 0) return [file];
    if (kind === 'i' || this.#tree.list(path) === null) return NONE;
    const json = this.#find(path + PACKAGE);
    const found = this.#main(path, json < 0 ? null : this.#packageOf(json).main);
    return [...(json < 0 ? [] : [json]), ...(found < 0 ? [] : [found])];
  }

  #fileOrDirectory(path: string): number {
    const plain = posix.normalize(path);
    const file = asFile(this.#find, plain);
    if (file >= 0 || this.#tree.list(plain) === null) return file;
    const json = this.#find(plain + PACKAGE);
    return this.#main(plain, json < 0 ? null : this.#packageOf(json).main);
  }

  /** LOAD_AS_DIRECTORY, with `main` of its package.json. */
  #main(directory: string, main: string | null): number {
    if (main !== null && main !== '') {
      const path = posix.resolve(directory, main);
      const file = asFile(this.#find, path);
      if (file >= 0) return file;
      const index = asIndex(this.#find, path);
      if (index >= 0) return index;
    }
    return asIndex(this.#find, directory);
  }

  #only(path: string): readonly number[] {
    const file = this.#find(posix.normalize(path));
    return file < 0 ? NONE : [file];
  }

  #packageOf(nid: number): PackageFile {
    return this.#packages.get(nid) ?? NO_PACKAGE;
  }

  /** LOOKUP_PACKAGE_SCOPE. */
  #scopeOf(directory: string): { readonly directory: string; readonly nid: number } | null {
    for (let at = directory; ; at = directoryOf(at)) {
      if (at.endsWith('/node_modules')) return null;
      let nid = this.#scopes.get(at);
      if (nid === undefined) {
        nid = this.#find(at === '/' ? PACKAGE : at + PACKAGE);
        this.#scopes.set(at, nid);
      }
      if (nid >= 0) return { directory: at, nid };
      if (at === '/') return null;
    }
  }
}
