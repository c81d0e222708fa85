import { expect, test } from 'vitest';
import { file, symlink, tar } from '../../test/support/tar.js';
import { treeOf } from '../../test/support/tree.js';
import type { ElfFile } from './elf.js';
import { Links } from './links.js';
import { linkNamed } from './named-files.js';

/** The files that a program leads to by its constants. `programs`: the others of the image. */
function namedBy(
  program: string,
  strings: string,
  paths: readonly string[],
  programs: readonly string[] = [],
): string[] {
  const all = [program, ...programs, ...paths.filter((path) => !path.includes(' -> '))];
  const tree = treeOf(
    tar(
      ...paths.map((path) => {
        const [name = '', target] = path.slice(1).split(' -> ');
        return target === undefined
          ? file(name, Buffer.alloc(path.includes('large') ? 1 << 20 : 10))
          : symlink(name, target);
      }),
      ...[program, ...programs].map((path) => file(path.slice(1), 'x')),
    ),
  );
  const elf = [program, ...programs].map((path) => ({
    ...{ nid: tree.resolve(path), path, size: 1, layer: 0 },
    needs: { interpreter: '/ld.so', strings: path === program ? strings : '' },
  })) as unknown as ElfFile[];
  const links = new Links();
  linkNamed(links, elf, [], tree, () => -1);
  const found = links.finish();
  if (found === null) return [];
  const pathOf = new Map(all.map((path) => [tree.resolve(path), path]));
  const from = found.nid.indexOf(tree.resolve(program));
  return Array.from(
    found.target.subarray(found.firstTarget[from], found.firstTarget[from + 1]),
    (to) => pathOf.get(found.nid[to]!) ?? '?',
  );
}

test('a program leads to all files of a small directory that it names, through links', () => {
  const files = [
    '/etc/php/8/cli/conf.d/10-a.ini -> /etc/php/8/on/a.ini',
    '/etc/php/8/on/a.ini',
    '/etc/php/8/cli/conf.d/sub/b',
  ];
  expect(namedBy('/usr/bin/php', '/etc/php/8/cli/conf.d', files)).toEqual([
    '/etc/php/8/on/a.ini',
    '/etc/php/8/cli/conf.d/sub/b',
  ]);
});

test('the directory may be one below that in which the program is installed', () => {
  const files = ['/opt/git/share/git-core/templates/hooks/a.sample'];
  expect(namedBy('/opt/git/bin/git', 'share/git-core/templates', files)).toEqual(files);
  expect(namedBy('/opt/git/bin/git', 'share/missing share/../../x', files)).toEqual([]);
});

test('of a larger directory, or one with programs, only the data is taken that the program names', () => {
  const data = [
    '/usr/share/db/15/large.bki',
    '/usr/share/db/15/a.sample',
    '/usr/share/db/15/b.sample',
    '/usr/share/db/15/plain',
  ];
  const source = ['/usr/share/db/15/x.py'];
  const names = '/usr/share/db/15 large.bki a.sample plain x.py missing.sample';
  expect(namedBy('/usr/bin/initdb', names, [...data, ...source])).toEqual([
    '/usr/share/db/15/a.sample',
    '/usr/share/db/15/large.bki',
  ]);
  const many = Array.from({ length: 100 }, (_, i) => `/usr/share/db/15/${i}.sample`);
  expect(namedBy('/usr/bin/initdb', '/usr/share/db/15 7.sample', many)).toEqual(['/usr/share/db/15/7.sample']);
  expect(namedBy('/usr/bin/x', '/usr/lib/xx/y', ['/usr/lib/xx/y/a.conf'], ['/usr/lib/xx/y/run'])).toEqual([]);
});

test('a directory of all packages, or one of two parts, is none of its own', () => {
  expect(namedBy('/usr/bin/x', '/usr/lib /etc/x /usr/bin', ['/usr/lib/a.conf', '/etc/x/b.conf'])).toEqual([]);
});

test('of a long list of programs the one of its own name is taken: it runs itself by another path', () => {
  const others = Array.from({ length: 20 }, (_, i) => `/usr/lib/git-core/git-${i}`);
  const names = ['/usr/lib/git-core', ...others.map((path) => path.slice('/usr/lib/git-core/'.length))].join(' ');
  expect(namedBy('/usr/bin/git', names, [], [...others, '/usr/lib/git-core/git'])).toEqual(['/usr/lib/git-core/git']);
  expect(namedBy('/usr/bin/git', names, [], others)).toEqual([]);
});

test('what a compiler gives its linker lies beside the programs that it runs', () => {
  const directory = '/usr/lib/gcc/x86_64-linux-gnu/12';
  const objects = [`${directory}/crtbegin.o`, `${directory}/libgcc.a`, `${directory}/other.o`];
  expect(
    namedBy('/usr/bin/gcc-12', '/usr/lib/gcc/ cc1 crtbegin.o crt1.o libgcc.a', objects, [`${directory}/cc1`]),
  ).toEqual([...[`${directory}/cc1`, `${directory}/crtbegin.o`, `${directory}/libgcc.a`]]);
});
