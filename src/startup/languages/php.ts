import { posix } from 'node:path';
import { directoryOf, type Language, type LinkSink, ResolverByPath } from './language.js';

const HEAD_BYTES = 64 * 1024;
const MAX_FILES = 1024;
/** `require_once __DIR__ . '/..' . '/a.php';`, and the same in a table of files (Composer's autoload_static.php). */
const FILE =
  /(?:\b(?:require|include)(?:_once)?[\s(]*|=>\s*)((?:(?:__DIR__|dirname\(__FILE__\))\s*\.\s*)?(?:(["'])[\w./+@ -]{1,200}\2(?:\s*\.\s*)?){1,4})/g;

/** Files lead to those that they include by a path that is written out. */
export const php: Language = {
  name: 'php',
  endings: ['.php'],
  interpreters: /^php[\d.]*$/,
  headBytes: HEAD_BYTES,
  tailBytes: 0,
  scan({ head }) {
    const files = includedFiles(head.toString('latin1'));
    return files.length === 0 ? null : files;
  },
  resolver: (tree) => new PhpResolver(tree),
};

/** Paths relative to the file, "." and the path, or "?" and a path as it is written. */
function includedFiles(text: string): string[] {
  const found = new Set<string>();
  for (const [, expression] of text.matchAll(FILE)) {
    if (found.size >= MAX_FILES) break;
    const path = Array.from(expression!.matchAll(/(["'])(.*?)\1/g), (match) => match[2]).join('');
    if (path.includes('.php') || path.includes('.inc')) found.add((/^["']/.test(expression!) ? '?' : '.') + path);
  }
  return [...found];
}

class PhpResolver extends ResolverByPath {
  link(links: LinkSink): void {
    for (const { path, from, words } of this.files()) {
      const directory = directoryOf(path);
      for (const word of words) {
        const to = this.tree.resolve(
          word.startsWith('.')
            ? posix.normalize(`${directory}/${word.slice(1)}`)
            : posix.resolve(directory, word.slice(1)),
        );
        if (to >= 0 && to !== from) links.add(from, to);
      }
    }
  }
}
