import { posix } from 'node:path';
import type { TreeListing } from '../../erofs/index.js';

const { dirname } = posix;
const PACKAGES = ['/site-packages/', '/dist-packages/'];

/** The meaning of a module's name in a directory. */
interface Found {
  /** The files that loading it reads. */
  readonly files: readonly number[];
  /** Where its submodules are, if it is a package. */
  readonly inside: string | null;
}

/** The Python modules of a tree, and their imports. */
export class PythonModules {
  readonly #listing: TreeListing;
  /** By path, because an upper layer's file replaces a lower one's. */
  readonly #sources = new Map<string, readonly string[]>();
  /** The files of import statements, by the directory of the importing module. */
  readonly #siblings = new Map<string, Map<string, readonly number[]>>();
  readonly #absolutes = new Map<string, Map<string, readonly number[]>>();
  /** By directory and name. */
  readonly #found = new Map<string, Map<string, Found | null>>();
  readonly #bytecode = new Map<string, ReadonlyMap<string, number[]>>();
  readonly #extensions = new Map<string, ReadonlyMap<string, number>>();
  readonly #searched = new Map<string, readonly string[]>();
  /** Directories of installed packages, and of the standard library. */
  readonly #libraries = new Set<string>();

  constructor(listing: TreeListing) {
    this.#listing = listing;
  }

  /** `imports` as `pythonImports` returns them. */
  add(path: string, imports: readonly string[]): void {
    this.#sources.set(path, imports);
    let end = -1;
    for (const name of PACKAGES) {
      const at = path.indexOf(name);
      if (at >= 0 && (end < 0 || at + name.length - 1 < end)) end = at + name.length - 1;
    }
    if (end >= 0) this.#libraries.add(path.slice(0, end));
    if (path.endsWith('/encodings/__init__.py')) {
      const library = dirname(dirname(path));
      this.#libraries.add(library);
      if (this.#listing.list(`${library}/lib-dynload`) !== null) this.#libraries.add(`${library}/lib-dynload`);
    }
  }

  /** Calls `link` for each file and each file that loading it leads to. `checked`: bytecode is compared with its source when loaded. */
  link(link: (from: number, to: number) => void, checked: boolean): void {
    for (const [path, imports] of this.#sources) {
      const slash = path.lastIndexOf('/');
      const directory = slash === 0 ? '/' : path.slice(0, slash);
      const source = this.#listing.list(directory)?.get(path.slice(slash + 1));
      if (source === undefined) continue;
      // If there is bytecode, imports read that. A program that reads the source instead does not import it.
      const stem = path.endsWith('.py') ? path.slice(slash + 1, -'.py'.length) : null; // a script is not compiled
      const compiled = stem === null ? [] : (this.#compiled(directory).get(stem) ?? []);
      const files = compiled.length > 0 ? compiled : [source];
      if (checked) for (const file of compiled) link(file, source);
      for (const statement of imports) {
        for (const target of this.#targets(directory, statement)) for (const file of files) link(file, target);
      }
    }
  }

  /** The files of a module by its absolute name, looked for in one directory. */
  find(directory: string, module: string): number[] {
    return this.#walk(directory, module, [])?.files ?? [];
  }

  /** The files that a statement in a module of a directory leads to. */
  #targets(directory: string, statement: string): readonly number[] {
    const relative = statement.startsWith('.');
    const searched = relative ? [] : this.#searchPath(directory);
    const home = relative ? directory : searched[0]!;
    let known = (relative ? this.#siblings : this.#absolutes).get(home);
    if (known === undefined) {
      known = new Map();
      (relative ? this.#siblings : this.#absolutes).set(home, known);
    }
    let files = known.get(statement);
    if (files === undefined) {
      const [module = '', ...names] = statement.split(' ');
      files = relative ? this.#relative(directory, module, names) : this.#absolute(searched, module, names);
      known.set(statement, files);
    }
    return files;
  }

  #relative(from: string, module: string, names: readonly string[]): readonly number[] {
    let dots = 0;
    while (module[dots] === '.') dots++;
    let directory = from;
    for (let i = 1; i < dots; i++) directory = dirname(directory);
    return this.#walk(directory, module.slice(dots), names)?.files ?? [];
  }

  #absolute(directories: readonly string[], module: string, names: readonly string[]): readonly number[] {
    for (const directory of directories) {
      const found = this.#walk(directory, module, names);
      if (found !== null) return found.files;
    }
    return [];
  }

  /** A dotted name below a directory, and the names imported from it that are modules; null if it is not there. */
  #walk(directory: string, module: string, names: readonly string[]): { files: number[] } | null {
    const files: number[] = [];
    let inside: string | null = directory;
    for (const part of module === '' ? [] : module.split('.')) {
      const found: Found | null = inside === null ? null : this.#module(inside, part);
      if (found === null) return null;
      files.push(...found.files);
      inside = found.inside;
    }
    if (inside !== null) for (const name of names) files.push(...(this.#module(inside, name)?.files ?? []));
    return { files };
  }

  #module(directory: string, name: string): Found | null {
    let known = this.#found.get(directory);
    if (known === undefined) {
      known = new Map();
      this.#found.set(directory, known);
    }
    let found = known.get(name);
    if (found === undefined) {
      found = this.#look(directory, name);
      known.set(name, found);
    }
    return found;
  }

  #look(directory: string, name: string): Found | null {
    const names = this.#listing.list(directory);
    if (names === null) return null;
    const inside = `${directory}/${name}`;
    const package_ = names.has(name) ? this.#listing.list(inside) : null;
    if (package_?.has('__init__.py')) return { files: this.#files(inside, '__init__'), inside };
    const extension = this.#extension(directory).get(name);
    if (extension !== undefined) return { files: [extension], inside: null };
    if (names.has(`${name}.py`)) return { files: this.#files(directory, name), inside: null };
    const bare = names.get(`${name}.pyc`);
    if (bare !== undefined) return { files: [bare], inside: null };
    return package_ === null ? null : { files: [], inside };
  }

  #files(directory: string, stem: string): readonly number[] {
    const compiled = this.#compiled(directory).get(stem);
    return compiled ?? [this.#listing.list(directory)!.get(`${stem}.py`)!];
  }

  /** Bytecode of a directory's modules, by their names: of every interpreter, but not the optimised kinds. */
  #compiled(directory: string): ReadonlyMap<string, number[]> {
    let found = this.#bytecode.get(directory);
    if (found === undefined) {
      const modules = new Map<string, number[]>();
      for (const [name, nid] of this.#listing.list(`${directory}/__pycache__`) ?? []) {
        const match = /^([^.]+)\.[\w-]+\.pyc$/.exec(name);
        if (match === null) continue;
        const files = modules.get(match[1]!);
        if (files === undefined) modules.set(match[1]!, [nid]);
        else files.push(nid);
      }
      found = modules;
      this.#bytecode.set(directory, found);
    }
    return found;
  }

  #extension(directory: string): ReadonlyMap<string, number> {
    let found = this.#extensions.get(directory);
    if (found === undefined) {
      const modules = new Map<string, number>();
      for (const [name, nid] of this.#listing.list(directory) ?? []) {
        if (name.endsWith('.so')) modules.set(name.slice(0, name.indexOf('.')), nid);
      }
      found = modules;
      this.#extensions.set(directory, found);
    }
    return found;
  }

  /** Directories in which absolute imports of a directory's modules are looked up: that of its outermost package, then the libraries, the nearest first. */
  #searchPath(directory: string): readonly string[] {
    const known = this.#searched.get(directory);
    if (known !== undefined) return known;
    let own = directory;
    while (own !== '/' && this.#listing.list(own)?.has('__init__.py')) own = dirname(own);
    const same = this.#searched.get(own);
    if (same !== undefined) {
      this.#searched.set(directory, same);
      return same;
    }
    const near = (library: string): number => {
      let i = 0;
      while (i < own.length && own[i] === library[i]) i++;
      return i;
    };
    const libraries = [...this.#libraries].filter((library) => library !== own).sort((a, b) => near(b) - near(a));
    const directories = [own, ...libraries];
    this.#searched.set(own, directories);
    this.#searched.set(directory, directories);
    return directories;
  }
}
