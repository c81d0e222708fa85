import type { TreeListing } from '../../erofs/index.js';
import { Words } from '../text-search.js';
import { EnclosingLines } from './enclosing-lines.js';
import type { Language, LinkSink, Resolver } from './language.js';
import { SearchRoots } from './search-roots.js';

const HEAD_BYTES = 64 * 1024;
const MAX_MODULES = 1024;
/** `use A::B …;` runs wherever it stands, `require A::B;` when its line does. Versions and files are no modules. */
const USE = /^\s*use\s+([A-Za-z_]\w*(?:::\w+)*)\b\s*([^#]*)/;
const REQUIRE = /^\s*require\s+([A-Za-z_]\w*(?:::\w+)*)\s*[}'")|]*\s*$/;
/** What may stand before it in its line: `BEGIN { eval q{ use A::B } }`, `my $has = eval { require A::B; 1 }`. */
const TRIED =
  /^[ \t]*(?:(?:my|our)?[ \t]*\$\w+[ \t]*=[ \t]*)?(?:BEGIN[ \t]*\{[ \t]*)?eval[ \t]*(?:qq?[ \t]*)?[{"'(|][ \t]*$/;
const MAX_TRIED = 80;
const PACKAGE = /^\s*package\s+([A-Za-z_]\w*(?:::\w+)*)\s*[;{]/;
/** The beginnings of the lines that matter: words may have blanks before them, the others stand behind the line's end. */
const WORDS = new Words('use', 'requ', 'pack', '\n=', '\n__E', '\n__D');
const BEHIND_NEWLINE = 3;
/** The lines that matter, to their end or a bound. */
const LINE = /^(?:=[a-zA-Z]|__(?:END|DATA)__|[ \t]*(?:use|require|package)\b)[^\n]{0,400}/;
const MAX_LINE = 512;
const [NEWLINE, SPACE, TAB] = [0x0a, 0x20, 0x09];
/** What runs when it is called, or under a condition: of another system, of an old version, of another module that is missing. */
const LATER = /\bsub\b|^\s*(?:[)}]\s*)?(?:if|elsif|else|unless)\b/;
/** A brace on a line of its own belongs to the line above. */
const OPENS_NOTHING = /^\s*(?:#|[)\]}]|\{\s*$)/;
const PARENTS = /^(?:parent|base)$/;
/** The order of @INC where several have a module (Debian's perl-base holds copies of the library's). */
const RANKS = [/^\/etc\/perl/, /\/local\//, /\/site_perl/, /\/vendor_perl/, /\/perl5(?:\/|$)/, /\/perl-base$/];

/** Modules lead to those that they use, and to their own part in C. */
export const perl: Language = {
  name: 'perl',
  endings: ['.pm', '.pl'],
  interpreters: /^perl[\d.]*$/,
  headBytes: HEAD_BYTES,
  tailBytes: 0,
  scan: ({ head }) => perlModules(head),
  resolver: (tree) => new PerlResolver(tree),
};

/** The modules that a file uses, "m" and the name; first, "p" and the name of its first package. Documentation is left out. */
export function perlModules(source: Buffer): string[] {
  const found = new Set<string>();
  const around = new EnclosingLines(source, (line) => LATER.test(line), OPENS_NOTHING);
  let named = false;
  let inDocumentation = false;
  for (const { line, start, nested } of linesOf(source)) {
    if (found.size >= MAX_MODULES) break;
    // perlpod: a paragraph of documentation begins with "=" and ends with "=cut".
    if (/^=[a-zA-Z]/.test(line)) inDocumentation = !line.startsWith('=cut');
    if (inDocumentation) continue;
    if (line.startsWith('__END__') || line.startsWith('__DATA__')) break;
    if (/^\s*(?:use|require)\b/.test(line)) {
      if (nested && /^\s*require/.test(line) && !around.runAtLoad(start + line.indexOf('require'))) continue;
      for (const statement of line.split(';')) addUsed(statement, found);
      continue;
    }
    const own = named ? null : PACKAGE.exec(line);
    if (own !== null) {
      named = true;
      found.add(`p${own[1]}`);
    }
  }
  return [...found];
}

/** `start`: where the line begins, or what matters of it. */
function* linesOf(
  source: Buffer,
): Generator<{ readonly line: string; readonly start: number; readonly nested: boolean }> {
  let next = 0;
  for (const hit of [0, ...WORDS.find(source)]) {
    const word = Words.position(hit) + (Words.number(hit) >= BEHIND_NEWLINE ? 1 : 0);
    let start = word;
    while (source[start - 1] === SPACE || source[start - 1] === TAB) start--;
    if (start < next) continue;
    const tried = start > 0 && source[start - 1] !== NEWLINE;
    if (tried) {
      const before = source.toString('latin1', Math.max(0, word - MAX_TRIED), word);
      if (!TRIED.test(before.slice(before.lastIndexOf('\n') + 1))) continue;
      start = word;
    }
    const line = LINE.exec(source.toString('latin1', start, start + MAX_LINE))?.[0];
    if (line === undefined) continue;
    next = start + line.length;
    yield { line, start, nested: tried || /^\s/.test(line) };
  }
}

function addUsed(statement: string, found: Set<string>): void {
  const [, module, list = ''] = USE.exec(statement) ?? [];
  const name = module ?? REQUIRE.exec(statement)?.[1];
  if (name === undefined) return;
  found.add(`m${name}`);
  if (!PARENTS.test(name) || list.includes('-norequire')) return;
  for (const [, parent] of list.matchAll(/(?:^|["'(\s])([A-Za-z_]\w*(?:::\w+)+|[A-Z]\w*)/g)) found.add(`m${parent}`);
}

class PerlResolver implements Resolver {
  readonly #tree: TreeListing;
  /** By path, because an upper layer's file replaces a lower one's. */
  readonly #files = new Map<string, readonly string[]>();
  readonly #roots: SearchRoots;
  readonly #find = (path: string): number => this.#tree.resolve(path);

  constructor(tree: TreeListing) {
    this.#tree = tree;
    this.#roots = new SearchRoots(this.#find, (root) => {
      const rank = RANKS.findIndex((kind) => kind.test(root));
      return rank < 0 ? RANKS.length : rank;
    });
  }

  add(path: string, found: readonly string[]): void {
    this.#files.set(path, found);
    // A module's place below its directory is its name.
    const name = found.find((word) => word.startsWith('p'));
    const ending = name === undefined ? '' : `/${name.slice(1).replaceAll('::', '/')}.pm`;
    if (ending !== '' && path.endsWith(ending)) this.#roots.add(path.slice(0, -ending.length));
  }

  link(links: LinkSink): void {
    for (const [path, words] of this.#files) {
      const from = this.#find(path);
      if (from < 0) continue;
      const own = this.#compiled(path, words);
      for (const word of words) {
        if (!word.startsWith('m')) continue;
        const to = this.#roots.file(`${word.slice(1).replaceAll('::', '/')}.pm`);
        if (to >= 0 && to !== from) links.add(from, to);
      }
      if (own >= 0) links.add(from, own);
    }
  }

  /** XSLoader: "auto/A/B/B.so" below the directory of A/B.pm. */
  #compiled(path: string, words: readonly string[]): number {
    const name = words
      .find((word) => word.startsWith('p'))
      ?.slice(1)
      .replaceAll('::', '/');
    if (name === undefined || !path.endsWith(`/${name}.pm`)) return -1;
    const root = path.slice(0, -`/${name}.pm`.length);
    const auto = `${root}/auto/${name}`;
    return this.#tree.list(auto) === null ? -1 : this.#find(`${auto}/${name.slice(name.lastIndexOf('/') + 1)}.so`);
  }
}
