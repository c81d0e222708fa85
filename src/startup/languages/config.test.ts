import { expect, test } from 'vitest';
import { linksOf } from '../../../test/support/language-links.js';
import type { ElfFile } from '../elf.js';
import { config, configNames } from './config.js';

test.each([
  ['nginx', '  include /etc/nginx/conf.d/*.conf;\n\tinclude mime.types;', ['i/etc/nginx/conf.d/*.conf', 'imime.types']],
  ['nginx', 'load_module modules/ngx_http_echo_module.so;', ['lmodules/ngx_http_echo_module.so']],
  ['Apache', 'IncludeOptional mods-enabled/*.load\nInclude ports.conf', ['imods-enabled/*.load', 'iports.conf']],
  ['Apache', 'LoadModule md_module /usr/lib/mod_md.so', ['l/usr/lib/mod_md.so']],
  ['MySQL', '!includedir /etc/mysql/conf.d/', ['i/etc/mysql/conf.d/']],
  ['sudo', '@includedir /etc/sudoers.d\n#includedir /etc/old.d', ['i/etc/sudoers.d', 'i/etc/old.d']],
  ['rsyslog', '$IncludeConfig /etc/rsyslog.d/*.conf', ['i/etc/rsyslog.d/*.conf']],
  ['PostgreSQL', "include_dir = 'conf.d'\ninclude_if_exists='a.conf'", ['iconf.d', 'ia.conf']],
  ['fontconfig', '  <include ignore_missing="yes">conf.d</include>', ['iconf.d']],
  [
    'PHP',
    'extension=sodium\nzend_extension = "opcache.so" ; fast\nextension=/x/y.so',
    ['lsodium.so', 'lopcache.so', 'l/x/y.so'],
  ],
  [
    'Redis',
    'include /etc/redis/local.conf\nloadmodule /usr/lib/redis/bloom.so A 1',
    ['i/etc/redis/local.conf', 'l/usr/lib/redis/bloom.so'],
  ],
  ['a comment', '# include x.conf\n;extension=y.so\n// load z.so\n<!-- <include>a</include>', []],
  ['other text', 'includes = 5\nname = something.sort\nextensions = a, b\nexclude a.conf', []],
])('the files that configuration names: %s', (_, text, names) => {
  expect(configNames(Buffer.from(text))).toEqual(names);
});

test('configuration leads to files of patterns and directories, through links, and to libraries by their one name', () => {
  const library = (find: (path: string) => number, path: string): ElfFile => ({ nid: find(path), path }) as ElfFile;
  const { links } = linksOf(
    config,
    {
      '/etc/web/web.conf':
        'include /etc/web/on/*.conf;\ninclude types.conf;\ninclude missing/*.conf;\ninclude /etc/[;\ninclude sites;\ninclude ../../escape.conf;\n',
      '/etc/web/types.conf': '',
      '/etc/web/on/20-b.conf': '-> /usr/share/web/b.conf',
      '/etc/web/on/10-a.conf': '-> /usr/share/web/a.conf',
      '/etc/web/on/.hidden.conf': 'include types.conf;',
      '/etc/web/on/README': '',
      '/etc/web/sites/one': '',
      '/usr/share/web/a.conf': 'load_module modules/a.so;\nload_module twice.so;\nload_module none.so;\n',
      '/usr/share/web/b.conf': 'LoadModule b /usr/lib/web/b.so\ninclude types.conf\n',
      '/usr/share/types.conf': '',
      '/usr/lib/web/modules/a.so': '',
      '/usr/lib/web/b.so': '',
      '/usr/lib/x/twice.so': '',
      '/usr/lib/y/twice.so': '',
      '/escape.conf': '',
    },
    (find) =>
      ['/usr/lib/web/modules/a.so', '/usr/lib/x/twice.so', '/usr/lib/y/twice.so'].map((path) => library(find, path)),
  );
  expect(Object.fromEntries(links)).toEqual({
    '/etc/web/web.conf': [
      '/usr/share/web/a.conf',
      '/usr/share/web/b.conf',
      '/etc/web/types.conf',
      '/etc/web/sites/one',
      '/escape.conf',
    ],
    '/usr/share/web/a.conf': ['/usr/lib/web/modules/a.so'],
    '/usr/share/web/b.conf': ['/usr/lib/web/b.so', '/usr/share/types.conf'],
    '/etc/web/on/.hidden.conf': ['/etc/web/types.conf'],
  });
});

test('the time for a file is bounded, whatever it is, and so is what a pattern names', () => {
  const many = Object.fromEntries(Array.from({ length: 500 }, (_, i) => [`/etc/x/${i}.conf`, '']));
  const { links } = linksOf(config, { ...many, '/etc/x.conf': 'include x/*.conf\n' });
  expect(links.get('/etc/x.conf')).toHaveLength(128);
  const started = performance.now();
  for (const text of [
    'include '.repeat(8192),
    'a.so'.repeat(16_384),
    '\nextension='.repeat(6000),
    `include${' '.repeat(65_000)}`,
  ])
    config.scan({ head: Buffer.from(text.slice(0, 65_536)), tail: Buffer.alloc(0), size: text.length });
  const stars = Array.from({ length: 128 }, () => `include /${'*'.repeat(150)}a/${'*?'.repeat(60)}b`).join('\n');
  const long = { [`/${'a'.repeat(250)}`]: '' };
  linksOf(config, { ...many, ...long, '/etc/y.conf': stars });
  expect(performance.now() - started).toBeLessThan(3000);
});
