import { posix } from 'node:path';
import { globMatcher } from '../glob-matcher.js';
import { Words } from '../text-search.js';
import { directoryOf, type Language, type LinkSink, type Programs, ResolverByPath } from './language.js';

const HEAD_BYTES = 64 * 1024;
const MAX_NAMES = 128;
const MAX_LINE = 400;
const NEWLINE = 0x0a;
/** Which lines are looked at. */
const WORDS = new Words('nclu', '.so', 'tens');
const COMMENT = /^\s*(?:#(?!include)|;|\/\/|<!--)/;
/**
 * `include` of nginx, Redis and ld.so.conf, `Include`, `IncludeOptional` and `$IncludeConfig` of Apache, OpenSSH and rsyslog, `!includedir` of
 * MySQL, `@includedir` of sudo, `include_dir = '…'` of PostgreSQL, `<include>` of fontconfig and D-Bus.
 */
const INCLUDE =
  /^\s*(?:[!@$#]?include(?:dir|_dir|_if_exists|optional|config)?\s*[\s=:]\s*["']?|<include(?:dir)?(?:\s[^>]*)?>\s*)([\w./@+*?[\]-]+)/i;
/** `LoadModule x_module /usr/lib/….so` of Apache, `load_module modules/x.so` of nginx, `loadmodule x.so` of Redis, `extension=x.so` of PHP. */
const LIBRARY = /(?:^|[\s"'=:,(])([\w./+-]+\.so(?:\.\d+)*)(?=[\s"';,)]|$)/;
/** PHP looks for "NAME.so" when the ending is missing (its manual, "extension"). */
const EXTENSION = /^\s*(?:zend_)?extension\s*=\s*["']?([\w./-]+?)(?:\.so)?["']?\s*(?:;|$)/;
/** Files that one pattern names, of all that a directory holds. */
const MAX_FILES = 128;
const MAX_DIRECTORIES = 32;
/** Names that are compared with patterns, or listed, in one image: its author may write many patterns of large directories. */
const MAX_NAMES_LOOKED_AT = 2_000_000;
/** Larger ones are data. */
const MAX_FILE = 256 * 1024;

/** Files of configuration lead to those that they include, and to the libraries that they have loaded. */
export const config: Language = {
  name: 'config',
  endings: ['.conf', '.cnf', '.ini', '.load'],
  interpreters: null,
  headBytes: HEAD_BYTES,
  tailBytes: 0,
  scan({ head }) {
    const found = configNames(head);
    return found.length === 0 ? null : found;
  },
  resolver: (tree) => new ConfigResolver(tree),
};

/** "i" and a path or pattern that is included, "l" and the name of a library. */
export function configNames(source: Buffer): string[] {
  const found = new Set<string>();
  let next = 0;
  for (const hit of WORDS.find(source)) {
    const at = Words.position(hit);
    if (at < next || found.size >= MAX_NAMES) continue;
    const start = source.lastIndexOf(NEWLINE, at) + 1;
    const newline = source.indexOf(NEWLINE, at);
    next = newline < 0 ? source.length : newline;
    if (at - start > MAX_LINE) continue;
    const line = source.toString('latin1', start, Math.min(next, start + MAX_LINE));
    if (COMMENT.test(line)) continue;
    const included = INCLUDE.exec(line)?.[1];
    const extension = EXTENSION.exec(line)?.[1];
    const library = extension === undefined ? LIBRARY.exec(line)?.[1] : `${extension}.so`;
    if (included !== undefined) found.add(`i${included}`);
    else if (library !== undefined) found.add(`l${library}`);
  }
  return [...found];
}

class ConfigResolver extends ResolverByPath {
  /** Names that may still be looked at. */
  #names = MAX_NAMES_LOOKED_AT;

  link(links: LinkSink, { elf }: Programs): void {
    const byName = new Map<string, number>();
    // Of one name in several places none can be told to be meant.
    for (const { path, nid } of elf) {
      const name = path.slice(path.lastIndexOf('/') + 1);
      byName.set(name, byName.has(name) ? -1 : nid);
    }
    for (const { path, from, words } of this.files()) {
      for (const word of words) {
        const name = word.slice(1);
        const found = word.startsWith('i') ? this.#included(name, directoryOf(path)) : [this.#library(name, byName)];
        for (const to of found) if (to >= 0 && to !== from) links.add(from, to);
      }
    }
  }

  #library(name: string, byName: ReadonlyMap<string, number>): number {
    const exact = name.startsWith('/') ? this.tree.resolve(posix.normalize(name)) : -1;
    return exact >= 0 ? exact : (byName.get(name.slice(name.lastIndexOf('/') + 1)) ?? -1);
  }

  /** Relative to the file, or to the directory above it: that of the main file, which includes files of directories beside it. */
  #included(name: string, directory: string): number[] {
    if (name.startsWith('/')) return this.#matching(posix.normalize(name));
    const near = this.#matching(posix.join(directory, name));
    return near.length > 0 ? near : this.#matching(posix.join(directoryOf(directory), name));
  }

  /** The files of a pattern (glob(7)); those of a directory, if it is one. */
  #matching(pattern: string): number[] {
    let paths = ['/'];
    const parts = pattern.split('/').filter((part) => part !== '');
    for (const [i, part] of parts.entries()) {
      const most = i < parts.length - 1 ? MAX_DIRECTORIES : MAX_FILES;
      paths = paths
        .flatMap((directory) => this.#namesLike(directory, part, most).map((name) => posix.join(directory, name)))
        .slice(0, most);
    }
    const files = paths.flatMap((path) => {
      const inside = this.tree.list(path);
      return inside === null ? [path] : this.#sorted(inside.keys(), MAX_FILES).map((name) => posix.join(path, name));
    });
    return files
      .slice(0, MAX_FILES)
      .map((path) => this.tree.resolve(path))
      .filter((nid) => nid >= 0 && this.tree.size(nid) <= MAX_FILE);
  }

  /** The names in a directory that match a part of a pattern, in their order. */
  #namesLike(directory: string, part: string, most: number): string[] {
    if (!/[*?[]/.test(part)) return [part];
    const like = globMatcher(part);
    const names = this.tree.list(directory)?.keys() ?? [];
    return this.#sorted(names, most, (name) => !name.startsWith('.') && like(name));
  }

  #sorted(names: Iterable<string>, most: number, wanted: (name: string) => boolean = () => true): string[] {
    const found: string[] = [];
    for (const name of names) {
      if (this.#names-- <= 0) break;
      if (wanted(name)) found.push(name);
    }
    return found.sort().slice(0, most);
  }
}
