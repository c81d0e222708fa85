import { posix } from 'node:path';
import type { TreeListing } from '../erofs/index.js';
import type { ElfFile } from './elf.js';
import { config } from './languages/config.js';
import { directoryOf } from './languages/language.js';
import { languageOf } from './languages/languages.js';
import { PROGRAM_DIRECTORIES } from './library-path.js';
import type { Links } from './links.js';

/** Where a file finds a library by name; −1 if nowhere. */
export type FindLibrary = (name: string, by: ElfFile) => number;

/** Links from one program by the names among its constants: most of them are words of its language and not names of files. */
const MAX_LINKS = 64;
/** Names of more programs are a list of what there is, and no hint at those that will run: git names 80 of its own. */
const MAX_HELPERS = 8;
/** Directories of all packages: a name that is a program there by chance says little. */
const SHARED = new Set([...PROGRAM_DIRECTORIES, '/lib', '/usr/lib', '/lib64', '/usr/lib64', '/usr/local/lib', '/']);
/** "/usr/lib/gcc/" has its programs in "x86_64-linux-gnu/12", "/usr/lib/git-core" in itself. */
const MAX_BELOW = 3;
/** A directory that is named like "/usr/share" is that of all packages. */
const MIN_PARTS = 3;
/** Files of a directory that a program names, in it and below, and their bytes: more are data of which it reads a part. */
const [MAX_OWN_FILES, MAX_OWN_BYTES, MAX_OWN_DIRECTORIES] = [64, 256 * 1024, 16];
/** Of files that it names in such a directory: initdb reads a table of 950 kB. */
const MAX_NAMED_FILE = 1024 * 1024;
const MAX_LISTED = 4096;
/** Larger files than this are data that no start reads whole. */
const MAX_DATA_FILE = 128 * 1024;
/** Programs of one name, directories of one program, and comparisons of the two in one image: a layer's index may be forged. */
const MAX_ALIKE = 64;
const MAX_PLACES = 16;
const MAX_COMPARISONS = 2_000_000;
const LIBRARY = /^lib.*\.so/;
/** Of the linker, and how many. */
const OBJECT = /^[\w+-]+\.[oa]$/;
const MAX_OBJECTS = 32;
const [SLASH, L] = [0x2f, 0x6c];

/**
 * Programs lead to the programs that they run, the libraries that they load by name, and the files that they name: found by the
 * constants of programs (`programStrings`), so for programs that clip does not know.
 */
export function linkNamed(
  links: Links,
  elf: readonly ElfFile[],
  scripts: readonly string[],
  listing: TreeListing,
  library: FindLibrary,
): void {
  const runnable = new Map<string, string[]>();
  const binaries = new Map(elf.map(({ nid, layer }) => [nid, layer]));
  const addRunnable = (path: string): void => {
    const name = path.slice(path.lastIndexOf('/') + 1);
    const same = runnable.get(name);
    if (same === undefined) runnable.set(name, [path]);
    else if (same.length < MAX_ALIKE) same.push(path);
  };
  for (const { path, needs } of elf) if (needs.interpreter !== null) addRunnable(path);
  for (const path of scripts) addRunnable(path);
  const commands = commandsOf(listing);
  const places = new Map(elf.map(({ nid, path }) => [nid, directoryOf(path)]));
  const budget = { comparisons: MAX_COMPARISONS };
  for (const file of elf) {
    if (file.needs.strings === '' || budget.comparisons <= 0) continue;
    const found = new NamedBy(file, runnable, commands, binaries, listing, library, budget, places).find();
    for (const nid of found) links.add(file.nid, nid);
  }
}

/** The paths of programs in the directories of all packages, by name. */
function commandsOf(listing: TreeListing): ReadonlyMap<string, string> {
  const commands = new Map<string, string>();
  for (const directory of PROGRAM_DIRECTORIES)
    for (const name of listing.list(directory)?.keys() ?? [])
      if (!commands.has(name)) commands.set(name, `${directory}/${name}`);
  return commands;
}

class NamedBy {
  readonly #found = new Set<number>();
  readonly #directory: string;

  constructor(
    readonly file: ElfFile,
    readonly runnable: ReadonlyMap<string, readonly string[]>,
    readonly commands: ReadonlyMap<string, string>,
    /** The layers of programs and libraries. */
    readonly binaries: ReadonlyMap<number, number>,
    readonly listing: TreeListing,
    readonly library: FindLibrary,
    readonly budget: { comparisons: number },
    /** The directories of programs. */
    readonly helperDirectories: ReadonlyMap<number, string>,
  ) {
    this.#directory = directoryOf(file.path);
  }

  find(): Iterable<number> {
    const { file } = this;
    const strings = file.needs.strings.split(' ');
    const places = SHARED.has(this.#directory) ? [] : [{ directory: this.#directory, below: 0 }];
    for (const string of strings) {
      const absolute = string.charCodeAt(0) === SLASH;
      if (!absolute && !string.includes('/')) continue;
      const path = plainPath(absolute ? string : `${directoryOf(this.#directory)}/${string}`);
      if (!this.#named(path) && places.length < MAX_PLACES && this.#isOwn(path))
        places.push({ directory: path, below: MAX_BELOW });
    }
    const own = this.#isProgram ? this.#ownFiles(places, new Set(strings)) : [];
    const helpers = new Set<number>();
    // What stands in a pattern of a command line is run in its turn; of mere names some are for rare cases.
    const isCommand = (string: string): boolean => string.endsWith('%');
    for (const string of [...strings.filter(isCommand), ...strings.filter((string) => !isCommand(string))]) {
      const first = string.charCodeAt(0);
      if (first === SLASH || string.includes('/')) continue;
      const name = isCommand(string) ? string.slice(0, -1) : string;
      if (first === L && LIBRARY.test(name)) this.#addLibrary(name);
      else if (this.runnable.has(name) || this.commands.has(name))
        this.#addHelpers(name, places, name !== string, helpers);
    }
    if (helpers.size <= MAX_HELPERS) for (const nid of helpers) this.#add(nid);
    else this.#addOwnKind(places);
    this.#addObjects(strings, helpers);
    for (const nid of own) this.#add(nid);
    this.#found.delete(file.nid);
    return this.#found;
  }

  /** Of a list of programs the one that is named like this one: git runs its own commands by the git in its directory. */
  #addOwnKind(places: readonly { directory: string }[]): void {
    const { path } = this.file;
    for (const same of this.runnable.get(path.slice(path.lastIndexOf('/') + 1)) ?? [])
      if (places.some(({ directory }) => directoryOf(same) === directory)) this.#add(this.listing.resolve(same));
  }

  /** What a compiler gives the linker: beside the programs that it runs, or in the directory of libraries. */
  #addObjects(strings: readonly string[], helpers: ReadonlySet<number>): void {
    const names = strings.filter((string) => OBJECT.test(string));
    if (names.length === 0) return;
    const directories = new Set([...helpers].map((nid) => this.helperDirectories.get(nid) ?? '/'));
    for (const directory of [...directories].filter((one) => !SHARED.has(one)).slice(0, MAX_PLACES))
      for (const name of names.slice(0, MAX_OBJECTS)) {
        const nid = this.listing.resolve(`${directory}/${name}`);
        if (nid >= 0 && this.listing.size(nid) <= MAX_NAMED_FILE * 8) this.#add(nid);
      }
  }

  /** The files that it names in directories of its own, and all of a small one. */
  *#ownFiles(places: readonly { directory: string; below: number }[], strings: ReadonlySet<string>): Generator<number> {
    for (const { directory, below } of places) {
      if (below === 0) continue;
      const names = this.listing.list(directory);
      if (names === null || names.size > MAX_LISTED) continue;
      const all = this.#smallFiles(directory);
      if (all !== null) {
        yield* all;
        continue;
      }
      for (const name of names.keys()) {
        if (!name.includes('.') || !strings.has(name) || this.runnable.has(name)) continue;
        const path = `${directory}/${name}`;
        const nid = this.listing.resolve(path);
        const isData = nid >= 0 && !this.binaries.has(nid) && !isSource(path);
        if (isData && this.listing.size(nid) <= MAX_NAMED_FILE) yield nid;
      }
    }
  }

  /** All files in a directory and below; null if that is much, or there are programs among them. */
  #smallFiles(directory: string): number[] | null {
    const files: number[] = [];
    let bytes = 0;
    const directories = [directory];
    for (let i = 0; i < directories.length; i++) {
      for (const name of this.listing.list(directories[i]!)?.keys() ?? []) {
        if (name === '.' || name === '..') continue;
        const path = `${directories[i]}/${name}`;
        const nid = this.listing.resolve(path);
        if (nid < 0) {
          if (this.listing.list(path) !== null && directories.push(path) > MAX_OWN_DIRECTORIES) return null;
          continue;
        }
        files.push(nid);
        bytes += this.listing.size(nid);
        if (files.length > MAX_OWN_FILES || bytes > MAX_OWN_BYTES || this.binaries.has(nid)) return null;
      }
    }
    return files;
  }

  #add(nid: number): void {
    if (nid >= 0 && this.#found.size < MAX_LINKS) this.#found.add(nid);
  }

  /** A library that is loaded by name; by a library only one beside it, because the others are for rare cases. */
  #addLibrary(name: string): void {
    const beside = this.listing.resolve(`${this.#directory === '/' ? '' : this.#directory}/${name}`);
    if (beside >= 0 || !this.#isProgram) this.#add(SHARED.has(this.#directory) && !this.#isProgram ? -1 : beside);
    else this.#add(this.library(name, this.file));
  }

  get #isProgram(): boolean {
    return this.file.needs.interpreter !== null;
  }

  /** A file by its path. True if there is one. */
  #named(path: string): boolean {
    const nid = this.listing.resolve(path);
    if (nid < 0) return false;
    if (this.binaries.has(nid) || isSource(path)) this.#add(nid);
    else if (this.#isProgram && this.listing.size(nid) <= MAX_DATA_FILE) this.#add(nid);
    return true;
  }

  /** Whether a directory that is named belongs to a package. */
  #isOwn(path: string): boolean {
    return path.split('/').length > MIN_PARTS && !SHARED.has(path) && this.listing.list(path) !== null;
  }

  /**
   * Programs of a name: in the program's own directories; of a command line also that of all packages; and if the program is no
   * command itself, one of all packages that came with it, in its layer.
   */
  #addHelpers(
    name: string,
    places: readonly { directory: string; below: number }[],
    isCommand: boolean,
    helpers: Set<number>,
  ): void {
    const paths = this.runnable.get(name) ?? [];
    this.budget.comparisons -= places.length * paths.length;
    for (const { directory, below } of places) {
      for (const path of paths) {
        if (!path.startsWith(`${directory}/`)) continue;
        const between = path.slice(directory.length + 1).split('/').length - 1;
        if (between <= below) helpers.add(this.listing.resolve(path));
      }
    }
    const command = isCommand || !SHARED.has(this.#directory) ? this.commands.get(name) : undefined;
    if (command === undefined) return;
    const nid = this.listing.resolve(command);
    if (isCommand || (this.file.layer > 0 && this.binaries.get(nid) === this.file.layer)) helpers.add(nid);
  }
}

/** Whether a path is that of a module or script: what reads it runs it. */
function isSource(path: string): boolean {
  const language = languageOf(path);
  return language !== null && language !== config;
}

/** Without a slash at its end, and without "//", "." and "..". */
function plainPath(string: string): string {
  const path = string.endsWith('/') ? string.slice(0, -1) : string;
  return path.includes('//') || path.includes('/.') || path.endsWith('/') ? posix.normalize(path) : path;
}
