import type { FindFile } from './language.js';

/** Directories in which the modules of a language are looked up by name. */
export class SearchRoots {
  readonly #roots = new Set<string>();
  readonly #rank: (root: string) => number;
  readonly #find: FindFile;
  #sorted: readonly string[] | null = null;
  /** By name: where no root of the asking file's own matters. */
  readonly #found = new Map<string, number>();

  /** @param rank  of directories, the smallest searched first; equal ones in the order of their paths */
  constructor(find: FindFile, rank: (root: string) => number) {
    this.#find = find;
    this.#rank = rank;
  }

  add(root: string): void {
    if (this.#roots.has(root)) return;
    this.#roots.add(root);
    this.#sorted = null;
  }

  get all(): readonly string[] {
    this.#sorted ??= [...this.#roots].sort((a, b) => this.#rank(a) - this.#rank(b) || (a < b ? -1 : 1));
    return this.#sorted;
  }

  /** The first file with one of these names below a root; −1 if there is none. All roots must have been added. */
  file(...names: readonly string[]): number {
    const key = names.join('\0');
    let found = this.#found.get(key);
    if (found === undefined) {
      found = -1;
      for (const root of this.all) {
        for (const name of names) if (found < 0) found = this.#find(`${root}/${name}`);
        if (found >= 0) break;
      }
      this.#found.set(key, found);
    }
    return found;
  }
}
