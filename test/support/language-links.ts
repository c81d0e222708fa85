import { lstatSync, readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import type { Language, Programs } from '../../src/startup/languages/language.js';
import { languageOfPath } from '../../src/startup/languages/languages.js';
import { file, symlink, tar } from './tar.js';
import { treeOf } from './tree.js';

/** Contents by path, latin1; links are `-> target`. */
export type Files = Readonly<Record<string, string>>;

const LINK = '-> ';
const isLink = (text: string): boolean => text.startsWith(LINK);

/** The files that each file leads to by one language, and the parts of files. */
export function linksOf(
  language: Language,
  files: Files,
  elf: (find: (path: string) => number) => Programs['elf'] = () => [],
): { links: Map<string, string[]>; ranges: Map<string, readonly number[]> } {
  const tree = treeOf(
    tar(
      ...Object.entries(files).map(([path, text]) =>
        isLink(text)
          ? symlink(path.slice(1), text.slice(LINK.length))
          : file(path.slice(1), Buffer.from(text, 'latin1')),
      ),
    ),
  );
  const resolver = language.resolver(tree);
  const pathOf = new Map<number, string>();
  for (const [path, text] of Object.entries(files)) {
    if (isLink(text)) continue;
    pathOf.set(tree.resolve(path), path);
    const bytes = Buffer.from(path);
    const whole = Buffer.from(text, 'latin1');
    if (languageOfPath(bytes, 0, bytes.length) !== language && !text.startsWith('#!')) continue;
    const found = language.scan({
      head: whole.subarray(0, language.headBytes),
      tail: whole.subarray(language.tailBytes === 0 ? whole.length : -language.tailBytes),
      size: whole.length,
    });
    if (found !== null) resolver.add(path, found);
  }
  const links = new Map<string, string[]>();
  const ranges = new Map<string, readonly number[]>();
  const sink = {
    add: (from: number, to: number) => {
      const path = pathOf.get(from)!;
      links.set(path, [...(links.get(path) ?? []), pathOf.get(to) ?? '?']);
    },
    range: (nid: number, pages: readonly number[]) => void ranges.set(pathOf.get(nid)!, pages),
  };
  resolver.link(sink, { elf: elf((path) => tree.resolve(path)), triplet: null, checked: false });
  return { links, ranges };
}

/** All files that a file leads to, and those lead to, without itself. */
export function closureOf(links: ReadonlyMap<string, readonly string[]>, start: string): Set<string> {
  const seen = new Set([start]);
  for (const path of seen) for (const next of links.get(path) ?? []) seen.add(next);
  seen.delete(start);
  return seen;
}

/** The files below directories of this machine. */
export function filesBelow(directories: readonly string[]): Record<string, string> {
  const files: Record<string, string> = {};
  const walk = (directory: string): void => {
    for (const name of readdirSync(directory)) {
      const path = join(directory, name);
      const stat = lstatSync(path);
      if (stat.isDirectory()) walk(path);
      else if (stat.isSymbolicLink()) files[path] = LINK + readlinkSync(path);
      else if (stat.isFile()) files[path] = /\.(so|a)$/.test(name) ? '' : readFileSync(path, 'latin1');
    }
  };
  const seen = new Set<string>();
  for (const directory of directories) {
    const real = realpathSync(directory);
    if (real !== directory && lstatSync(directory).isSymbolicLink()) files[directory] = LINK + real;
    if (!seen.has(real)) walk(real);
    seen.add(real);
  }
  return files;
}
