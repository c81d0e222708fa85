import type { ImageMeta } from '../archive/index.js';
import type { TreeListing } from '../erofs/index.js';
import type { ElfFile } from './elf.js';
import { tripletOf } from './library-path.js';
import type { Links } from './links.js';
import type { ReadingFunction } from './symbol-names.js';

/** The files that functions of the C library read (glibc's manual; musl's are the same). Those of setlocale depend on the locale. */
const READERS: Readonly<Record<Exclude<ReadingFunction, 'setlocale'>, readonly string[]>> = {
  localtime: ['/etc/localtime'],
  tzset: ['/etc/localtime'],
  getpw: ['/etc/nsswitch.conf', '/etc/passwd'],
  getgr: ['/etc/nsswitch.conf', '/etc/group'],
};

/** A larger one is a mistake. */
const MAX_FILE = 256 * 1024;
const LOCALES = '/usr/lib/locale';
/** Where the image sets none: most environments do. */
const USUAL_LOCALE = 'C.UTF-8';
/** Locales of one image whose files lead to each other, and files of one. Debian's C.utf8 has 13. */
const MAX_LOCALES = 64;
const MAX_LOCALE_FILES = 32;
/** Pages of an archive of locales that every start reads: its header and tables. */
const ARCHIVE_PAGES = 16;

/** Programs and libraries lead to the files that the functions read which they call. */
export function linkReadingFunctions(
  links: Links,
  elf: readonly ElfFile[],
  listing: TreeListing,
  image: Pick<ImageMeta, 'config' | 'platform'>,
): void {
  const locale = linkLocales(links, listing, image);
  for (const { nid, needs } of elf) {
    for (const name of needs.functions.split(' ')) {
      if (name === 'setlocale' && locale >= 0) links.add(nid, locale);
      for (const path of READERS[name as keyof typeof READERS] ?? []) {
        const file = listing.resolve(path);
        if (file >= 0 && listing.size(file) <= MAX_FILE) links.add(nid, file);
      }
    }
  }
}

/**
 * The files of a locale are read together: each leads to all, and to the table of character sets. Returns the file that leads to the locale
 * which the image sets, or else the usual one; −1 if there is none.
 */
function linkLocales(links: Links, listing: TreeListing, image: Pick<ImageMeta, 'config' | 'platform'>): number {
  const directories = [`/usr/lib/${tripletOf(image.platform.architecture)}`, '/usr/lib64', '/usr/lib'];
  const sets = directories
    .map((directory) => listing.resolve(`${directory}/gconv/gconv-modules.cache`))
    .find((nid) => nid >= 0);
  const firsts = new Map<string, number>();
  for (const name of [...(listing.list(LOCALES)?.keys() ?? [])].slice(0, MAX_LOCALES)) {
    const files: number[] = [];
    for (const directory of [`${LOCALES}/${name}`, `${LOCALES}/${name}/LC_MESSAGES`]) {
      for (const file of listing.list(directory)?.keys() ?? []) {
        const nid = file.startsWith('.') ? -1 : listing.resolve(`${directory}/${file}`);
        if (nid >= 0 && files.length < MAX_LOCALE_FILES) files.push(nid);
      }
    }
    const [first, ...others] = files;
    if (first === undefined) continue;
    firsts.set(comparable(name), first);
    for (const other of others) {
      links.add(first, other);
      links.add(other, first);
    }
    if (sets !== undefined) links.add(first, sets);
  }
  const set = localeOf(image);
  if (set === null) return -1;
  const found = firsts.get(comparable(set)) ?? firsts.get(comparable(USUAL_LOCALE));
  if (found !== undefined) return found;
  const archive = listing.resolve(`${LOCALES}/locale-archive`);
  if (archive >= 0) links.range(archive, [0, ARCHIVE_PAGES]);
  return archive;
}

/** "C.UTF-8" names the directory "C.utf8". */
function comparable(name: string): string {
  return name.toLowerCase().replaceAll(/[^a-z0-9.@_]/g, '');
}

/** The locale that the image's environment sets; null if that has no files. */
function localeOf({ config }: Pick<ImageMeta, 'config'>): string | null {
  const { Env } = (config.config ?? {}) as { readonly Env?: unknown };
  const environment = Array.isArray(Env) ? Env.filter((line): line is string => typeof line === 'string') : [];
  for (const name of ['LC_ALL=', 'LC_CTYPE=', 'LANG=']) {
    const line = environment.find((one) => one.startsWith(name));
    const value = line?.slice(name.length);
    if (value === undefined || value === '') continue;
    return value === 'C' || value === 'POSIX' ? null : value;
  }
  return USUAL_LOCALE;
}
