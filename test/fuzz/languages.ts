// Fuzz target: the files of an image that name others, from their bytes to the links between files.
import { elfNeeds } from '../../src/startup/elf.js';
import { NameLog, readNames } from '../../src/startup/found-names.js';
import { LANGUAGES } from '../../src/startup/languages/languages.js';
import { programStrings } from '../../src/startup/program-strings.js';
import { jar } from '../support/jar.js';
import * as t from '../support/tar.js';
import { treeOf } from '../support/tree.js';

const NAMES = ['a', 'b', 'package', 'lib/a', 'node_modules/a/lib/b', 'node_modules/a/package'];
const PATHS = LANGUAGES.flatMap(({ endings }) =>
  endings.flatMap((ending) => NAMES.map((name) => `app/${name}${ending.replace(/^\/(?!package\.)/, '')}`)),
);
const tree = treeOf(t.tar(...[...new Set(PATHS)].map((path) => t.file(path, 'x'))));
export const mutationsInTests = 150;

/** The first byte chooses the language; the one after the last is the reader of programs. */
export function corpus(): Uint8Array[] {
  const of = (language: string, text: string): Uint8Array =>
    Buffer.concat([Buffer.from([LANGUAGES.findIndex(({ name }) => name === language)]), Buffer.from(text, 'latin1')]);
  const program = (text: string): Uint8Array =>
    Buffer.concat([Buffer.from([LANGUAGES.length]), Buffer.from(text, 'latin1')]);
  return [
    of('python', 'from . import (a,\n b)\ntry:\n  import lib.a\nexcept: pass\n'),
    of('node', "const a = require('./b'),\n    b = require('a/lib/b');\nif (x) {\n  require('../a')\n}\n"),
    of('node', "import a from './b.js'\nexport * from 'a'\n(function () {\n  require('a')\n})()"),
    of(
      'node',
      '{"name":"a","main":"./lib/b","exports":{".":{"import":"./lib/b.js"},"./*":["./lib/*"]},"imports":{"#x":"a"}}',
    ),
    of('ruby', "require 'a'\nrequire_relative './lib/a'\ndef x\n  require 'b'\nend\n"),
    of('ruby', 'Gem::Specification.new do |s|\n s.require_paths = ["lib".freeze, "../x"]\nend\n'),
    of('perl', 'package lib::a;\nuse parent qw(a b::c);\nrequire b;\n=pod\n\nuse x;\n\n=cut\nuse a::b 1.2;\n__END__\n'),
    of('php', "<?php\nrequire_once __DIR__ . '/lib' . '/a.php';\ninclude('b.php');\n'x' => '/app/a.php',\n"),
    of('shell', '#!/bin/sh\nif a | b; then . /app/a.sh; fi\n'),
    of('c', '#include "lib/a.h"\n # include <b.h>\n#include <../a.h>\n'),
    of('java', jar('Manifest-Version: 1.0\r\nClass-Path: a.jar lib/\r\n b.jar\r\n', 8)),
    of('java', jar('Class-Path: file:/app/a.jar x\n', 0)),
    of(
      'java',
      Buffer.from('dadafeca0100000000000000010000000200000003000000040000', 'hex').toString('latin1').padEnd(64),
    ),
    program('\0cc1\0/usr/lib/gcc/\0as %(x) %i\0liba.so.1\0'),
    program('\x7fELF\x02\x01\x01'),
  ];
}

export function execute(input: Uint8Array): string | undefined {
  const language = LANGUAGES[(input[0] ?? 0) % (LANGUAGES.length + 1)];
  const bytes = Buffer.from(input.subarray(1));
  if (language === undefined) {
    const parse = elfNeeds();
    for (let next = parse.next(); !next.done; ) {
      const { offset, length } = next.value;
      next = parse.next(bytes.subarray(offset, offset + length));
    }
    return `${programStrings(bytes, { runs: true, loads: true }).split(' ').length}`;
  }
  const { headBytes, tailBytes } = language;
  const seen = {
    head: bytes.subarray(0, headBytes),
    tail: tailBytes === 0 ? bytes.subarray(0, 0) : bytes.subarray(-tailBytes),
    size: bytes.length,
  };
  const log = new NameLog();
  log.add(7, language, seen);
  const found: Parameters<typeof readNames>[1] = [];
  readNames(log.take(), found);
  const names = language.scan(seen);
  if (found.length !== (names === null ? 0 : 1)) throw new Error(`${found.length} files in the log`);
  if (names === null) return 'nothing';
  if (JSON.stringify(found[0]!.names) !== JSON.stringify(names)) throw new Error('the log has other names');
  const resolver = language.resolver(tree);
  for (const path of PATHS) resolver.add(`/${path}`, names);
  let links = 0;
  const count = (): void => {
    links++;
  };
  resolver.link({ add: count, range: count }, { elf: [], triplet: null, checked: false });
  return `${language.name} ${Math.min(links, 50)}`;
}
