import type { TreeListing } from '../../erofs/index.js';
import type { ElfFile } from '../elf.js';

/** What is looked at of a file while its layer streams by. */
export interface SeenFile {
  /** Its first bytes, `headBytes` at most. */
  readonly head: Buffer;
  /** Its last bytes, `tailBytes` at most. */
  readonly tail: Buffer;
  readonly size: number;
}

/** How the files of one language name the files that they load. One file of this folder implements it for each language. */
export interface Language {
  /** Stands for the language in the scan of a layer (docs/format.md, "11: scan"). */
  readonly name: string;
  /** How the paths of its files end. */
  readonly endings: readonly string[];
  /** Names of the programs that run its scripts, for files with another ending: `#!/usr/bin/env NAME`. Null: there are no scripts. */
  readonly interpreters: RegExp | null;
  readonly headBytes: number;
  readonly tailBytes: number;
  /**
   * The names of other files in a file, in the order in which they will be read: words without tabs and line ends, for `add`. Null
   * for a file that tells nothing. Sees one file of one layer, and must take a time that is linear in the bytes that it is given.
   */
  scan(file: SeenFile): readonly string[] | null;
  resolver(tree: TreeListing): Resolver;
}

/** Finds the named files in the merged tree. */
export interface Resolver {
  /** What `scan` found in the file at a path; the layers in their order, so a later call for the same path replaces an earlier one. */
  add(path: string, found: readonly string[]): void;
  /** Called once, after all `add`. */
  link(links: LinkSink, programs: Programs): void;
}

/** A resolver that needs each file's findings by its path. */
export abstract class ResolverByPath implements Resolver {
  protected readonly tree: TreeListing;
  /** An upper layer's file replaces a lower one's. */
  readonly #files = new Map<string, readonly string[]>();

  constructor(tree: TreeListing) {
    this.tree = tree;
  }

  add(path: string, found: readonly string[]): void {
    this.#files.set(path, found);
  }

  abstract link(links: LinkSink, programs: Programs): void;

  /** The files that are in the merged tree, each with its nid. */
  protected *files(): Generator<{ readonly path: string; readonly from: number; readonly words: readonly string[] }> {
    for (const [path, words] of this.#files) {
      const from = this.tree.resolve(path);
      if (from >= 0) yield { path, from, words };
    }
  }
}

export interface LinkSink {
  /** Reading the file `from` leads to the file `to`. */
  add(from: number, to: number): void;
  /** Of this file only these parts are read first: first page and number of pages, in pairs. */
  range(nid: number, pages: readonly number[]): void;
}

/** The programs of the merged tree. */
export interface Programs {
  readonly elf: readonly ElfFile[];
  /** Debian's name of the architecture in paths, such as "x86_64-linux-gnu". */
  readonly triplet: string | null;
  /** Whether most of the Python bytecode is compared with its source when it is loaded (PEP 552). */
  readonly checked: boolean;
}

/** The regular file at a path, or −1. Symlinks are followed. */
export type FindFile = (path: string) => number;

/** Path of the directory that a path lies in: "/" for "/a". */
export function directoryOf(path: string): string {
  const slash = path.lastIndexOf('/');
  return slash <= 0 ? '/' : path.slice(0, slash);
}
