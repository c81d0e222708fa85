import { posix } from 'node:path';
import type { TreeListing } from '../../erofs/index.js';
import { hasAt, Words } from '../text-search.js';
import { EnclosingLines } from './enclosing-lines.js';
import { directoryOf, type Language, type LinkSink, type Programs, type Resolver } from './language.js';
import { SearchRoots } from './search-roots.js';

/** Large files of the library require their parts at their end. */
const HEAD_BYTES = 128 * 1024;
const MAX_REQUESTS = 1024;
const [WORDS, REQUIRE] = [new Words('requ'), Buffer.from('require')];
const NEWLINE = 0x0a;
const MAX_STATEMENT = 300;
/** `require "a"`, `require_relative('a')`; behind `begin`, or in a line with a condition. */
const STATEMENT = /^[ \t]*(?:begin[ ;]+|Kernel\.)?require(_relative)?[ \t(]+(["'])([\w./+@-]{1,200})\2/;
/** What is written in the body of a method runs when it is called. */
const LATER =
  /^\s*(?:(?:private|protected|public|module_function)\s+)?def\b|->|\b(?:lambda|proc|at_exit|define_method)\b/;
const OPENS_NOTHING = /^\s*(?:#|end\b|[)\]}])/;
/** Of a gem's specification: `s.require_paths = ["lib".freeze, "ext".freeze]`. */
const REQUIRE_PATHS = /\brequire_paths\s*=\s*\[([^\]]{0,1000})\]/;
/** Directories of the library, of a site's and of packages' own files: "/usr/lib/ruby/3.1.0", "/usr/lib/ruby/vendor_ruby". */
const LIBRARY = /^(?:.*\/(?:site_ruby|vendor_ruby)(?:\/\d+\.\d+\.\d+)?|.*\/ruby\/\d+\.\d+\.\d+)(?=\/)/;
const GEM = /^(.*\/gems)\/([^/]+)\/lib(?=\/)/;
/** The order of $LOAD_PATH: activated gems come first, then the site's, packages', the library. */
const RANKS = [/\/gems\/[^/]+\//, /\/site_ruby/, /\/vendor_ruby/];
/** What every start loads, besides the specifications of default gems. */
const AT_START = ['enc/encdb', 'enc/trans/transdb', 'rbconfig', 'rubygems', 'monitor', 'error_highlight'];
const MORE_AT_START = ['did_you_mean', 'syntax_suggest/core'];

/** Files lead to the files that they require; the interpreter to those of every start. */
export const ruby: Language = {
  name: 'ruby',
  endings: ['.rb', '.gemspec'],
  interpreters: /^ruby[\d.]*$/,
  headBytes: HEAD_BYTES,
  tailBytes: 0,
  scan({ head }) {
    const paths = REQUIRE_PATHS.exec(head.includes('require_paths') ? head.toString('latin1', 0, 8192) : '');
    if (paths !== null) return Array.from(paths[1]!.matchAll(/["']([\w./+-]+)["']/g), (match) => `p${match[1]}`);
    return rubyRequests(head);
  },
  resolver: (tree) => new RubyResolver(tree),
};

/** What a file requires when it is loaded: "r" and a name, or "." and a path relative to the file. */
export function rubyRequests(source: Buffer): string[] {
  const found = new Set<string>();
  const blocks = new EnclosingLines(source, (line) => LATER.test(line), OPENS_NOTHING);
  for (const hit of WORDS.find(source)) {
    if (found.size >= MAX_REQUESTS) break;
    const at = Words.position(hit);
    if (!hasAt(source, at, REQUIRE)) continue;
    const line = source.lastIndexOf(NEWLINE, at) + 1;
    if (at - line > MAX_STATEMENT) continue;
    const match = STATEMENT.exec(source.toString('latin1', line, line + MAX_STATEMENT));
    if (match === null || !blocks.runAtLoad(at)) continue;
    found.add(`${match[1] === undefined ? 'r' : '.'}${match[3]}`);
  }
  return [...found];
}

class RubyResolver implements Resolver {
  readonly #tree: TreeListing;
  /** By path, because an upper layer's file replaces a lower one's. */
  readonly #files = new Map<string, readonly string[]>();
  readonly #specifications = new Map<string, readonly string[]>();
  readonly #roots: SearchRoots;
  readonly #find = (path: string): number => this.#tree.resolve(path);

  constructor(tree: TreeListing) {
    this.#tree = tree;
    this.#roots = new SearchRoots(this.#find, (root) => {
      const rank = RANKS.findIndex((kind) => kind.test(`${root}/`));
      return rank < 0 ? RANKS.length : rank;
    });
  }

  add(path: string, found: readonly string[]): void {
    if (path.endsWith('.gemspec')) {
      this.#specifications.set(path, found);
      return;
    }
    this.#files.set(path, found);
    const gem = GEM.exec(path);
    const library = gem === null ? LIBRARY.exec(path) : null;
    if (gem !== null) this.#roots.add(gem[0]);
    else if (library !== null) this.#roots.add(library[0]);
  }

  link(links: LinkSink, { elf }: Programs): void {
    for (const [path, paths] of this.#specifications) this.#addGem(path, paths);
    // Extensions lie in a directory of the architecture: "/usr/local/lib/ruby/3.3.0/x86_64-linux".
    for (const root of [...this.#roots.all])
      if (!root.includes('/gems/'))
        for (const name of this.#tree.list(root)?.keys() ?? [])
          if (name.includes('-linux')) this.#roots.add(`${root}/${name}`);
    for (const [path, requests] of this.#files) {
      const from = this.#find(path);
      if (from < 0) continue;
      for (const request of requests) {
        const to = request.startsWith('.')
          ? this.#exact(posix.resolve(directoryOf(path), request.slice(1)))
          : this.#require(request.slice(1));
        if (to >= 0 && to !== from) links.add(from, to);
      }
    }
    for (const { nid, path } of elf) if (/\/ruby[\d.]*$/.test(path)) this.#linkInterpreter(links, nid);
  }

  /** The directories of an installed gem that can be required from: "gems/NAME" beside "specifications/NAME.gemspec". */
  #addGem(path: string, paths: readonly string[]): void {
    const match = /^(.*)\/specifications\/([^/]+)\.gemspec$/.exec(path);
    if (match === null) return;
    const directory = `${match[1]}/gems/${match[2]}`;
    for (const name of paths) {
      const root = posix.join(directory, name.slice(1));
      if (root.startsWith(`${directory}/`) && this.#tree.list(root) !== null) this.#roots.add(root);
    }
  }

  #linkInterpreter(links: LinkSink, nid: number): void {
    for (const name of [...AT_START, ...MORE_AT_START]) {
      const to = this.#require(name);
      if (to >= 0) links.add(nid, to);
    }
    for (const path of this.#specifications.keys()) {
      const to = path.includes('/specifications/default/') ? this.#find(path) : -1;
      if (to >= 0) links.add(nid, to);
    }
  }

  #require(name: string): number {
    if (name.startsWith('/')) return this.#exact(posix.normalize(name));
    if (name.split('/').includes('..')) return -1;
    return /\.(?:rb|so)$/.test(name) ? this.#roots.file(name) : this.#roots.file(`${name}.rb`, `${name}.so`);
  }

  #exact(path: string): number {
    if (/\.(?:rb|so)$/.test(path)) return this.#find(path);
    const file = this.#find(`${path}.rb`);
    return file >= 0 ? file : this.#find(`${path}.so`);
  }
}
