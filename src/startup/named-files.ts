import { posix } from 'node:path';
import type { TreeListing } from '../erofs/index.js';
import type { ElfFile } from './elf.js';
import { directoryOf } from './languages/language.js';
import { languageOfPath } from './languages/languages.js';
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
/** Larger files than this are data that no start reads whole. */
const MAX_DATA_FILE = 128 * 1024;
/** Programs of one name, directories of one program, and comparisons of the two in one image: a layer's index may be forged. */
const MAX_ALIKE = 64;
const MAX_PLACES = 16;
const MAX_COMPARISONS = 2_000_000;
const LIBRARY = /^lib.*\.so/;
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
  const budget = { comparisons: MAX_COMPARISONS };
  for (const file of elf) {
    if (file.needs.strings === '' || budget.comparisons <= 0) continue;
    const found = new NamedBy(file, runnable, commands, binaries, listing, library, budget).find();
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
  ) {
    this.#directory = directoryOf(file.path);
  }

  find(): Iterable<number> {
    const { file } = this;
    const strings = file.needs.strings.split(' ');
    const places = SHARED.has(this.#directory) ? [] : [{ directory: this.#directory, below: 0 }];
    for (const string of strings) {
      if (string.charCodeAt(0) !== SLASH) continue;
      const path = plainPath(string);
      if (!this.#named(path) && places.length < MAX_PLACES && this.#isOwn(path))
        places.push({ directory: path, below: MAX_BELOW });
    }
    const helpers = new Set<number>();
    // What stands in a pattern of a command line is run in its turn; of mere names some are for rare cases.
    const isCommand = (string: string): boolean => string.endsWith('%');
    for (const string of [...strings.filter(isCommand), ...strings.filter((string) => !isCommand(string))]) {
      const first = string.charCodeAt(0);
      if (first === SLASH) continue;
      const name = isCommand(string) ? string.slice(0, -1) : string;
      if (first === L && LIBRARY.test(name)) this.#addLibrary(name);
      else if (this.runnable.has(name) || this.commands.has(name))
        this.#addHelpers(name, places, name !== string, helpers);
    }
    if (helpers.size <= MAX_HELPERS) for (const nid of helpers) this.#add(nid);
    this.#found.delete(file.nid);
    return this.#found;
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
    const bytes = Buffer.from(path, 'latin1');
    if (this.binaries.has(nid) || languageOfPath(bytes, 0, bytes.length) !== null) this.#add(nid);
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

/** Without a slash at its end, and without "//", "." and "..". */
function plainPath(string: string): string {
  const path = string.endsWith('/') ? string.slice(0, -1) : string;
  return path.includes('//') || path.includes('/.') || path.endsWith('/') ? posix.normalize(path) : path;
}
