import type { TreeListing } from '../../erofs/index.js';
import { PROGRAM_DIRECTORIES } from '../library-path.js';
import type { Language, LinkSink, Resolver } from './language.js';

const HEAD_BYTES = 32 * 1024;
const MAX_WORDS = 512;
/** A word where a command may stand: at the start of a line, behind what ends a command, or a keyword. `JAVA=java` counts as well. */
const COMMAND =
  /(?<=^[ \t]{0,40}|[;|&()`=][ \t]{0,9}|\b(?:then|do|else|if|elif|while|until|exec|command|nohup|env|!)[ \t])([A-Za-z_][\w.+-]{1,40})(?=[\s;|&)`"]|$)/gm;
/** A file by its path, such as one that is read with ".". */
const PATH = /(?:^|[\s"'`=;(])(\/[\w.+@-]+(?:\/[\w.+@-]+)+)(?=[\s"'`;)]|$)/gm;
/** Keywords, and the commands that shells run themselves (POSIX, XCU 2.15; bash and dash have the others). */
const BUILTIN = new Set(
  (
    'if then else elif fi do done case esac while until for in function select time break continue eval exec exit export ' +
    'readonly return set shift times trap unset alias bg cd command false fg getopts hash jobs kill local pwd read true type ' +
    'ulimit umask unalias wait echo test printf declare let source shopt builtin typeset'
  ).split(' '),
);

/** Scripts lead to the programs that they run, and to files that they name. */
export const shell: Language = {
  name: 'shell',
  endings: ['.sh'],
  interpreters: /^(?:ba|da|a|k|z)?sh$/,
  headBytes: HEAD_BYTES,
  tailBytes: 0,
  scan({ head }) {
    const words = shellWords(head.toString('latin1').replace(/^[ \t]*#.*$/gm, ''));
    return words.length === 0 ? null : words;
  },
  resolver: (tree) => new ShellResolver(tree),
};

function shellWords(text: string): string[] {
  const found: { at: number; word: string }[] = [];
  for (const pattern of [COMMAND, PATH]) {
    for (const match of text.matchAll(pattern)) {
      if (found.length >= MAX_WORDS) break;
      if (!BUILTIN.has(match[1]!)) found.push({ at: match.index, word: match[1]! });
    }
  }
  return [...new Set(found.sort((a, b) => a.at - b.at).map(({ word }) => word))];
}

class ShellResolver implements Resolver {
  readonly #tree: TreeListing;
  /** By path, because an upper layer's file replaces a lower one's. */
  readonly #files = new Map<string, readonly string[]>();

  constructor(tree: TreeListing) {
    this.#tree = tree;
  }

  add(path: string, found: readonly string[]): void {
    this.#files.set(path, found);
  }

  link(links: LinkSink): void {
    const known = new Map<string, number>();
    for (const [path, words] of this.#files) {
      const from = this.#tree.resolve(path);
      if (from < 0) continue;
      for (const word of words) {
        let to = known.get(word);
        if (to === undefined) {
          to = word.startsWith('/') ? this.#tree.resolve(word) : this.#program(word);
          known.set(word, to);
        }
        if (to >= 0 && to !== from) links.add(from, to);
      }
    }
  }

  #program(name: string): number {
    for (const directory of PROGRAM_DIRECTORIES)
      if (this.#tree.list(directory)?.has(name) === true) return this.#tree.resolve(`${directory}/${name}`);
    return -1;
  }
}
