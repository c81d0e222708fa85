import { posix } from 'node:path';
import type { TreeListing } from '../../erofs/index.js';
import type { Language, LinkSink, Programs, Resolver } from './language.js';
import { pythonImports } from './python-imports.js';
import { PythonModules } from './python-modules.js';

/** Only this much of a module is searched, because imports come first. */
const HEAD_BYTES = 32 * 1024;

/** Modules lead to the modules that they import when they are loaded, interpreters to those that every start loads. */
export const python: Language = {
  name: 'python',
  endings: ['.py'],
  interpreters: /^python[\d.]*$/,
  headBytes: HEAD_BYTES,
  tailBytes: 0,
  scan: ({ head }) => pythonImports(head),
  resolver: (tree) => new PythonResolver(tree),
};

class PythonResolver implements Resolver {
  readonly #tree: TreeListing;
  readonly #modules: PythonModules;

  constructor(tree: TreeListing) {
    this.#tree = tree;
    this.#modules = new PythonModules(tree);
  }

  add(path: string, found: readonly string[]): void {
    this.#modules.add(path, found);
  }

  link(links: LinkSink, { elf, triplet, checked }: Programs): void {
    this.#modules.link((from, to) => links.add(from, to), checked);
    for (const { nid, path } of elf) {
      const version = path.includes('/python') ? /^python(\d+)\.(\d+)$/.exec(posix.basename(path)) : null;
      if (version !== null) this.#linkInterpreter(links, nid, path, version, triplet);
    }
  }

  /** The modules that an interpreter opens before it runs a program. */
  #linkInterpreter(links: LinkSink, nid: number, path: string, version: RegExpExecArray, triplet: string | null): void {
    const files = [
      '/usr/lib/locale/C.utf8/LC_CTYPE',
      ...(triplet === null ? [] : [`/usr/lib/${triplet}/gconv/gconv-modules.cache`]),
      '/etc/localtime',
    ];
    for (const file of files) {
      const found = this.#tree.resolve(file);
      if (found >= 0) links.add(nid, found);
    }
    const library = `${posix.dirname(posix.dirname(path))}/lib/${version[0]}`;
    // Since 3.11 the others are part of the program ("frozen": bpo-45020).
    const more =
      Number(version[2]) >= 11 ? [] : ['codecs', 'io', 'abc', 'site', 'os', 'stat', 'posixpath', 'genericpath'];
    for (const module of ['encodings', 'encodings.aliases', 'encodings.utf_8', ...more, 'sitecustomize']) {
      for (const target of this.#modules.find(library, module)) links.add(nid, target);
    }
  }
}
