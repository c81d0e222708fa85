import { PROGRAM_DIRECTORIES } from '../library-path.js';
import { shellWords } from '../shell-words.js';
import { type Language, type LinkSink, ResolverByPath } from './language.js';

const HEAD_BYTES = 32 * 1024;

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

class ShellResolver extends ResolverByPath {
  link(links: LinkSink): void {
    const known = new Map<string, number>();
    for (const { from, words } of this.files()) {
      for (const word of words) {
        let to = known.get(word);
        if (to === undefined) {
          to = word.startsWith('/') ? this.tree.resolve(word) : this.#program(word);
          known.set(word, to);
        }
        if (to >= 0 && to !== from) links.add(from, to);
      }
    }
  }

  #program(name: string): number {
    for (const directory of PROGRAM_DIRECTORIES)
      if (this.tree.list(directory)?.has(name) === true) return this.tree.resolve(`${directory}/${name}`);
    return -1;
  }
}
