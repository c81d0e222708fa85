import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { file, symlink, tar } from '../../../test/support/tar.js';
import { treeOf } from '../../../test/support/tree.js';
import type { TreeListing } from '../../erofs/index.js';
import { languageOfPath, languageOfScript } from './languages.js';
import { node } from './node.js';

const directory = mkdtempSync(join(tmpdir(), 'clip-node-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

type Files = Readonly<Record<string, string>>;

/** The paths that each file leads to; links are `-> target`. */
function linksOf(files: Files): Map<string, string[]> {
  const tree: TreeListing = treeOf(
    tar(
      ...Object.entries(files).map(([path, text]) =>
        text.startsWith('-> ') ? symlink(path.slice(1), text.slice(3)) : file(path.slice(1), text),
      ),
    ),
  );
  const resolver = node.resolver(tree);
  const pathOf = new Map<number, string>();
  for (const [path, text] of Object.entries(files)) {
    if (text.startsWith('-> ')) continue;
    pathOf.set(tree.resolve(path), path);
    if (!node.endings.some((ending) => path.endsWith(ending))) continue;
    const head = Buffer.from(text);
    const found = node.scan({ head, tail: head.subarray(0, 0), size: head.length });
    if (found !== null) resolver.add(path, found);
  }
  const links = new Map<string, string[]>();
  const sink = {
    add: (from: number, to: number) => {
      const path = pathOf.get(from)!;
      links.set(path, [...(links.get(path) ?? []), pathOf.get(to) ?? '?']);
    },
    range: () => {},
  };
  resolver.link(sink, { elf: [], triplet: null, checked: false });
  return links;
}

test('modules lead to package.json files and modules: main, exports, conditions, patterns, imports, index files, links', () => {
  const links = linksOf({
    '/app/main.js':
      "require('./lib'); require('a'); require('@s/b/x'); require('linked'); require('#in'); require('app/self')",
    '/app/main.mjs': "import 'a'; import '@s/b/deep/y.js'; import './lib/index.js'",
    '/app/package.json': '{"name":"app","exports":{"./self":"./self.js"},"imports":{"#in":{"require":"./in.js"}}}',
    '/app/self.js': '',
    '/app/in.js': '',
    '/app/lib/index.js': "require('..')",
    '/app/node_modules/a/package.json': '{"main":"lib/a","exports":null}',
    '/app/node_modules/a/lib/a.js': '',
    '/node_modules/@s/b/package.json':
      '{"exports":{"./x":{"import":"./no.js","default":["./x.js"]},"./deep/*":"./src/*","./src/*":null}}',
    '/node_modules/@s/b/x.js': '',
    '/node_modules/@s/b/src/y.js': '',
    '/app/node_modules/linked': '-> ../../store/linked',
    '/store/linked/package.json': '{"main":"."}',
    '/store/linked/index.js': "require('./data')",
    '/store/linked/data.json': '{}',
  });
  expect(Object.fromEntries(links)).toEqual({
    '/app/main.js': [
      ...['/app/package.json', '/app/lib/index.js', '/app/node_modules/a/package.json', '/app/node_modules/a/lib/a.js'],
      ...['/node_modules/@s/b/package.json', '/node_modules/@s/b/x.js', '/store/linked/package.json'],
      ...['/store/linked/index.js', '/app/in.js', '/app/package.json', '/app/self.js'],
    ],
    '/app/main.mjs': [
      ...['/app/package.json', '/app/node_modules/a/package.json', '/app/node_modules/a/lib/a.js'],
      ...['/node_modules/@s/b/package.json', '/node_modules/@s/b/src/y.js', '/app/lib/index.js'],
    ],
    '/app/lib/index.js': ['/app/package.json'],
    '/app/node_modules/a/package.json': ['/app/node_modules/a/lib/a.js'],
    '/store/linked/index.js': ['/store/linked/package.json', '/store/linked/data.json'],
    '/store/linked/package.json': ['/store/linked/index.js'],
  });
});

test('a hostile package.json leads nowhere', () => {
  const deep = `${'{"default":'.repeat(2000)}"./x.js"${'}'.repeat(2000)}`;
  for (const json of ['{', '[]', '7', 'null', '{"exports":{".":{"default":7}}}', `{"exports":${deep}}`, '{"main":{}}'])
    expect(
      linksOf({ '/m.js': "require('a')", '/node_modules/a/package.json': json, '/x.js': '' }).get('/m.js'),
    ).toEqual(['/node_modules/a/package.json']);
});

test('a package.json without exports is kept as its main module, wherever other objects have one', () => {
  const text = (json: string): readonly string[] | null =>
    node.scan({ head: Buffer.from(json), tail: Buffer.alloc(0), size: json.length });
  expect(text('{"name":"a","version":"1","main" :\n "lib/é.js","scripts":{"x":"}"}}')).toEqual(['{"main":"lib/é.js"}']);
  expect(text('{"name":"a","main":"x.js","publishConfig":{"main":"y.js"}}')).toEqual(['{"name":"a","main":"x.js"}']);
  expect(text('{"name":"a","jspm":{"main":"y.js"}}')).toEqual(['{"name":"a"}']);
  expect(text('{"a":"\\"{","name":"a","main":"x.js"}')).toEqual(['{"main":"x.js"}']);
  expect(text('{"name":"a","main":"a\\u002fb"}')).toEqual(['{"name":"a","main":"a/b"}']);
  expect(text('{"name":"a","main":"x","imports":{"#a":"b"}}')).toEqual([
    '{"name":"a","main":"x","imports":{"#a":"b"}}',
  ]);
  expect(text('{"name":"a"}')).toEqual(['{}']);
  expect(text('{"private":true}')).toBeNull();
});

test('files are told by their path, scripts by their first line', () => {
  const of = (path: string): string | undefined => {
    const bytes = Buffer.from(`xx${path}yy`);
    return languageOfPath(bytes, 2, bytes.length - 2)?.name;
  };
  expect(['a.js', 'b/c.mjs', 'd.cjs', 'package.json', 'p/package.json'].map(of)).toEqual(Array(5).fill('node'));
  expect(['js', '.jsx', 'xpackage.json', 'a.json', '', 'a.ts'].map(of)).toEqual(Array(6).fill(undefined));
  expect(languageOfScript('#!/usr/bin/env -S node --x')).toBe(node);
  expect(languageOfScript('#! /usr/bin/nodejs')).toBe(node);
  expect(languageOfScript('#!/usr/bin/env A=b python3.11')?.name).toBe('python');
  expect(languageOfScript('#!/bin/sh')?.name).toBe('shell');
  expect(languageOfScript('#!/usr/bin/awk -f')).toBeNull();
  expect(languageOfScript('#!')).toBeNull();
});

// Node itself is the oracle: random packages, and every request from every module of them.
const NAMES = ['p', '@s/q', 'r'];
const target = fc.constantFrom<unknown>('./a.js', './lib/b.js', './none.js', 'a.js', null, 7);
const conditions = fc.oneof(
  target,
  fc.dictionary(fc.constantFrom('import', 'require', 'node', 'browser', 'default'), target, { maxKeys: 3 }),
  fc.array(target, { maxLength: 2 }),
);
const mapOf = (...keys: string[]) => fc.dictionary(fc.constantFrom(...keys), conditions, { maxKeys: 4 });
const packageJson = fc.record(
  {
    name: fc.constantFrom(...NAMES),
    main: fc.constantFrom('a', './lib', 'lib/b.js', 'none', '.'),
    exports: fc.oneof(conditions, mapOf('.', './a', './lib/*', './lib/*.js', './l*', './*')),
    imports: mapOf('#a', '#x/*', '#x/b*'),
  },
  { requiredKeys: [] },
);
const contents = fc.record({
  json: fc.option(packageJson),
  files: fc.subarray(['a.js', 'index.js', 'lib/b.js', 'lib/index.json', 'lib/package.json', 'c.node', 'd.json'], {
    minLength: 2,
  }),
});
const REQUESTS = [
  ...['./a', './a.js', './lib', './lib/', '.', '..', './c', './d', './none', '#a', '#x/b.js', '#x/b'],
  ...NAMES.flatMap((name) => ['', '/a', '/a.js', '/lib', '/lib/b', '/lib/b.js', '/none'].map((sub) => name + sub)),
];
const PROBE = `
const { createRequire } = require('node:module');
const { existsSync, statSync, writeSync } = require('node:fs');
const { fileURLToPath, pathToFileURL } = require('node:url');
const [modules, requests] = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
(async () => {
  const answers = [];
  for (const module of modules) {
    const required = createRequire(module);
    const probe = await import(pathToFileURL(module + '.probe.mjs'));
    answers.push(requests.map((request) => ['r', 'i'].map((kind) => {
      try {
        const path = kind === 'r' ? required.resolve(request) : fileURLToPath(probe.resolve(request));
        return existsSync(path) && statSync(path).isFile() ? path : null;
      } catch { return null; }
    })));
  }
  writeSync(1, JSON.stringify(answers));
})();
`;

test('every request of random packages leads to the file that Node finds', () => {
  const trees: Files[] = [];
  fc.assert(
    fc.property(fc.array(contents, { minLength: 4, maxLength: 4 }), (packages) => {
      const root = join(directory, `${trees.length}`);
      const files: Record<string, string> = {};
      const places = ['', '/node_modules/p', '/node_modules/@s/q', '/sub/node_modules/r'];
      for (const [i, place] of places.entries()) {
        const { json, files: names } = packages[i]!;
        for (const name of names)
          files[`${root}${place}/${name}`] = name.endsWith('package.json') ? '{"main":"b"}' : '';
        if (json !== null) files[`${root}${place}/package.json`] = JSON.stringify(json);
      }
      files[`${root}/main.js`] = '';
      files[`${root}/sub/main.js`] = '';
      trees.push(files);
    }),
    { numRuns: 60, seed: 16 },
  );
  for (const files of trees) {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, text);
      if (path.endsWith('.js'))
        writeFileSync(`${path}.probe.mjs`, 'export const resolve = (r) => import.meta.resolve(r);');
    }
  }
  const modules = trees.map((files) => Object.keys(files).filter((path) => path.endsWith('.js')));
  const input = JSON.stringify([modules.flat(), REQUESTS]);
  const answers = JSON.parse(
    execFileSync(process.execPath, ['-e', PROBE], {
      input,
      maxBuffer: 1 << 28,
      stdio: ['pipe', 'pipe', 'ignore'],
    }).toString(),
  ) as (string | null)[][][];
  let found = 0;
  for (const [i, files] of trees.entries()) {
    const tree = treeOf(tar(...Object.entries(files).map(([path, text]) => file(path.slice(1), text))));
    const pathOf = new Map(Object.keys(files).map((path) => [tree.resolve(path), path]));
    for (const module of modules[i]!) {
      const wanted = answers.shift()!;
      for (const [j, request] of REQUESTS.entries()) {
        for (const [k, kind] of ['r', 'i'].entries()) {
          const answer = wanted[j]![k]!;
          // An import needs the whole name of a file; that of a transpiled source does not, so both are followed.
          if (answer === null) continue;
          const resolver = node.resolver(tree);
          for (const [path, text] of Object.entries(files))
            if (path.endsWith('/package.json'))
              resolver.add(
                path,
                node.scan({ head: Buffer.from(text), tail: Buffer.alloc(0), size: text.length }) ?? [],
              );
          resolver.add(module, [kind + request]);
          const to: string[] = [];
          resolver.link(
            { add: (from, nid) => void (pathOf.get(from) === module && to.push(pathOf.get(nid)!)), range: () => {} },
            { elf: [], triplet: null, checked: false },
          );
          expect(to, `${kind} ${request} in ${module}: ${JSON.stringify(files, null, 1)}`).toContain(answer);
          found++;
        }
      }
    }
  }
  expect(found).toBeGreaterThan(2000);
});
