import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { closureOf, filesBelow, linksOf } from '../../../test/support/language-links.js';
import { ruby, rubyRequests } from './ruby.js';

test('what a file requires when it is loaded', () => {
  const source = `# frozen_string_literal: true
require 'json'
require "net/http"; require 'hidden'
require_relative 'a/b'
require_relative('./c.rb')
begin
  require 'optional'
rescue LoadError
end
if RUBY_PLATFORM
  require "x-y" unless z
end
class A
  require 'inside'
  def b
    require 'lazy'
  end
  private def c
    if d
      require 'lazy/too'
    end
  end
  E = -> { require 'later' }
end
# require 'comment'
required 'f'
require variable
require "g#{h}"
`;
  expect(rubyRequests(Buffer.from(source))).toEqual([
    ...['rjson', 'rnet/http', '.a/b', '../c.rb', 'roptional', 'rx-y', 'rinside'],
  ]);
  expect(rubyRequests(Buffer.from('require'))).toEqual([]);
  expect(rubyRequests(Buffer.from("require '"))).toEqual([]);
});

test('files lead to files of the library, of gems and their other directories, of the architecture, and beside them', () => {
  const LIB = '/usr/local/lib/ruby/3.3.0';
  const { links } = linksOf(
    ruby,
    {
      '/app/main.rb':
        "require 'json'\nrequire 'rack'\nrequire 'native'\nrequire 'site'\nrequire_relative 'own'\nrequire '../own'\n",
      '/app/own.rb': "require '/app/main.rb'\n",
      [`${LIB}/json.rb`]: "require 'json/ext'\n",
      [`${LIB}/json/ext.rb`]: "require 'json/ext/parser.so'\n",
      [`${LIB}/x86_64-linux/json/ext/parser.so`]: '',
      [`${LIB}/site.rb`]: '',
      '/usr/local/lib/ruby/site_ruby/3.3.0/site.rb': '',
      '/usr/local/lib/ruby/gems/3.3.0/gems/rack-3.0/lib/rack.rb': "require_relative 'rack/version'\n",
      '/usr/local/lib/ruby/gems/3.3.0/gems/rack-3.0/lib/rack/version.rb': '',
      '/bundle/specifications/native-1.gemspec': 's.require_paths = ["ext".freeze, "../..".freeze]\n',
      '/bundle/gems/native-1/ext/native.rb': '',
      '/usr/local/lib/ruby/gems/3.3.0/specifications/default/json-2.gemspec': 's.require_paths = ["lib"]\n',
      [`${LIB}/rubygems.rb`]: '',
      '/usr/local/bin/ruby': 'x',
    },
    (find) => [{ nid: find('/usr/local/bin/ruby'), path: '/usr/local/bin/ruby' } as never],
  );
  expect(Object.fromEntries(links)).toEqual({
    '/app/main.rb': [
      ...[`${LIB}/json.rb`, '/usr/local/lib/ruby/gems/3.3.0/gems/rack-3.0/lib/rack.rb'],
      ...['/bundle/gems/native-1/ext/native.rb', '/usr/local/lib/ruby/site_ruby/3.3.0/site.rb', '/app/own.rb'],
    ],
    '/app/own.rb': ['/app/main.rb'],
    [`${LIB}/json.rb`]: [`${LIB}/json/ext.rb`],
    [`${LIB}/json/ext.rb`]: [`${LIB}/x86_64-linux/json/ext/parser.so`],
    '/usr/local/lib/ruby/gems/3.3.0/gems/rack-3.0/lib/rack.rb': [
      '/usr/local/lib/ruby/gems/3.3.0/gems/rack-3.0/lib/rack/version.rb',
    ],
    '/usr/local/bin/ruby': [
      `${LIB}/rubygems.rb`,
      '/usr/local/lib/ruby/gems/3.3.0/specifications/default/json-2.gemspec',
    ],
  });
});

// scripts/debian-packages.sh installs it. The oracle is $LOADED_FEATURES.
test('a program leads to the files that Ruby loads for it, and to few others', () => {
  const program =
    "require 'json'\nrequire 'set'\nrequire 'net/http'\nrequire 'optparse'\nrequire 'erb'\nrequire 'yaml'\n";
  const said = execFileSync('ruby', ['--disable-gems', '-e', `${program}puts $LOADED_FEATURES, '', $LOAD_PATH`], {
    encoding: 'utf8',
  });
  const [loaded = [], roots = []] = said.split('\n\n').map((part) => part.split('\n').filter((line) => line !== ''));
  const files = { ...filesBelow(roots.filter((root) => existsSync(root))), '/main.rb': program };
  const found = closureOf(linksOf(ruby, files).links, '/main.rb');
  const wanted = loaded.filter((path) => path in files && !/encdb|transdb|rbconfig|monitor/.test(path));
  expect(wanted.length).toBeGreaterThan(60);
  expect(wanted.filter((path) => !found.has(path)).length).toBeLessThan(0.1 * wanted.length);
  expect([...found].filter((path) => !loaded.includes(path)).length).toBeLessThan(0.3 * wanted.length);
});
