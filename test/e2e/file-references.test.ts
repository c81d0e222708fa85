import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { ArchiveFile } from '../../src/check/index.js';
import { ErofsReader, resolvePath } from '../../src/erofs/index.js';
import { createFromOCIImage } from '../../src/index/index.js';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';
import { startRegistry } from '../support/registry.js';
import { file, symlink, tar, whiteout } from '../support/tar.js';

const directory = mkdtempSync(join(tmpdir(), 'clip-references-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** The files that each of `paths` leads to; null for an archive without references. */
async function referencesOf(layers: Uint8Array[], paths: readonly string[]): Promise<Record<string, string[]> | null> {
  const image = writeImage(layers);
  const out = join(directory, 'out.clip');
  const { warnings } = await createFromOCIImage({ imageRef: image.reference, outputPath: out });
  expect(warnings).toEqual([]);
  const opened = ArchiveFile.open(out);
  const { references, tree } = opened.archive;
  opened.close();
  image.remove();
  if (references === null) return null;
  const reader = new ErofsReader(tree);
  const pathOf = new Map(paths.map((path) => [resolvePath(reader, Buffer.from(path), true), path]));
  const found: Record<string, string[]> = {};
  for (let i = 0; i < references.count; i++) {
    const targets = references.target.subarray(references.firstTarget[i], references.firstTarget[i + 1]);
    const from = pathOf.get(references.nid[i]!);
    if (from !== undefined && targets.length > 0)
      found[from] = Array.from(targets, (target) => pathOf.get(references.nid[target]!) ?? '?');
  }
  return found;
}

const LIB = '/usr/lib/python3.9';
const SITE = `${LIB}/site-packages`;
const EXTENSION = readFileSync(realpathSync('/bin/ls'));

test('Python modules lead to their imports: packages, siblings, extensions, the library, bytecode if there is any', async () => {
  const pyc = (name: string): Uint8Array => file(name, Buffer.alloc(64));
  const base = tar(
    file(`.${LIB}/encodings/__init__.py`, 'import codecs\n'),
    file(`.${LIB}/codecs.py`, ''),
    file(`.${LIB}/json/__init__.py`, 'from .decoder import JSONDecoder\n'),
    file(`.${LIB}/json/decoder.py`, 'import codecs\n'),
    file(`.${LIB}/lib-dynload/_fast.cpython-39-x86_64-linux-gnu.so`, EXTENSION),
  );
  const packages = tar(
    file(
      `.${SITE}/pkg/__init__.py`,
      'from . import core\nimport pkg.util.deep, json, _fast, nowhere\nfrom pkg import lost\n',
    ),
    pyc(`.${SITE}/pkg/__pycache__/__init__.cpython-39.pyc`),
    pyc(`.${SITE}/pkg/__pycache__/__init__.cpython-39.opt-1.pyc`),
    file(`.${SITE}/pkg/core.py`, 'from .util import deep as d\nfrom .. import outside\nimport pkg\n'),
    file(`.${SITE}/pkg/util/__init__.py`, ''),
    file(`.${SITE}/pkg/util/deep.py`, 'import plain\n'),
    pyc(`.${SITE}/plain.pyc`),
    file(`.${SITE}/pkg/gone.py`, 'import json\n'),
  );
  const changes = tar(
    file(`.${SITE}/pkg/util/__init__.py`, 'import codecs\n'),
    file(`.${SITE}/later.py`, 'from pkg.util import deep\n'),
    whiteout(`.${SITE}/pkg/gone.py`),
  );
  const init = `${SITE}/pkg/__pycache__/__init__.cpython-39.pyc`;
  const paths = [
    ...['encodings/__init__.py', 'codecs.py', 'json/__init__.py', 'json/decoder.py'].map((name) => `${LIB}/${name}`),
    `${LIB}/lib-dynload/_fast.cpython-39-x86_64-linux-gnu.so`,
    ...['pkg/__init__.py', 'pkg/core.py', 'pkg/util/__init__.py', 'pkg/util/deep.py', 'plain.pyc', 'later.py'].map(
      (name) => `${SITE}/${name}`,
    ),
    init,
  ];
  const deep = `${SITE}/pkg/util/deep.py`;
  const util = `${SITE}/pkg/util/__init__.py`;
  expect(await referencesOf([base, packages, changes], paths)).toEqual({
    [`${LIB}/encodings/__init__.py`]: [`${LIB}/codecs.py`],
    [`${LIB}/json/__init__.py`]: [`${LIB}/json/decoder.py`],
    [`${LIB}/json/decoder.py`]: [`${LIB}/codecs.py`],
    [init]: [
      `${SITE}/pkg/core.py`,
      util,
      deep,
      `${LIB}/json/__init__.py`,
      `${LIB}/lib-dynload/_fast.cpython-39-x86_64-linux-gnu.so`,
    ],
    [`${SITE}/pkg/core.py`]: [util, deep, init],
    [util]: [`${LIB}/codecs.py`],
    [deep]: [`${SITE}/plain.pyc`],
    [`${SITE}/later.py`]: [init, util, deep],
  });
});

test('a program leads to its loader, the loader’s cache, and its libraries through links', async () => {
  const program = realpathSync('/bin/ls');
  const loader = realpathSync('/lib64/ld-linux-x86-64.so.2');
  const libc = '/lib/x86_64-linux-gnu/libc.so.6';
  const layer = tar(
    file('opt/program', readFileSync(program)),
    file('usr/lib64/loader', readFileSync(loader)),
    symlink('lib64/ld-linux-x86-64.so.2', '../usr/lib64/loader'),
    file('etc/ld.so.cache', 'cache'),
    file('usr/lib/real-libc', readFileSync(realpathSync(libc))),
    symlink(libc.slice(1), '/usr/lib/real-libc'),
  );
  const found = await referencesOf(
    [layer],
    ['/opt/program', '/usr/lib64/loader', '/etc/ld.so.cache', '/usr/lib/real-libc'],
  );
  expect(found!['/opt/program']).toEqual(['/usr/lib64/loader', '/usr/lib/real-libc']);
  expect(found!['/usr/lib64/loader']).toEqual(['/etc/ld.so.cache']);
});

test('gcc leads to the programs that it runs, whatever layers they are in; a name that is there by chance leads nowhere', async () => {
  const gcc = realpathSync(execFileSync('which', ['gcc'], { encoding: 'utf8' }).trim());
  const compiler = execFileSync('gcc', ['-print-prog-name=cc1'], { encoding: 'utf8' }).trim();
  const directory = dirname(compiler);
  const program = readFileSync(realpathSync('/bin/ls'));
  const base = tar(
    file(gcc.slice(1), readFileSync(gcc)),
    // Of all packages, and by its name alone.
    file('usr/bin/collect2', program),
    file('usr/bin/x-as', program),
    symlink('usr/bin/as', 'x-as'),
  );
  const helpers = tar(
    file(compiler.slice(1), program),
    file(`${directory.slice(1)}/collect2`, program),
    file(`${directory.slice(1)}/unheard-of`, program),
    file('opt/lib/cc1', program),
  );
  const paths = [
    gcc,
    compiler,
    `${directory}/collect2`,
    `${directory}/unheard-of`,
    '/usr/bin/collect2',
    '/usr/bin/x-as',
  ];
  const found = await referencesOf([base, helpers], [...paths, '/opt/lib/cc1']);
  expect(found![gcc]!.sort()).toEqual([compiler, `${directory}/collect2`, '/usr/bin/x-as'].sort());
});

test('a script among the data of all machines is a template and leads nowhere, unless programs are there', async () => {
  const script = '#!/bin/sh\nunheard-of\n';
  const paths = ['/usr/share/x/hooks/a.sample', '/usr/share/x/run.sh', '/usr/share/x/bin/run', '/srv/run'];
  const layer = tar(...paths.map((path) => file(path.slice(1), script)), file('usr/bin/unheard-of', 'x'));
  const leads = ['/usr/bin/unheard-of'];
  expect(await referencesOf([layer], [...paths, ...leads])).toEqual(
    Object.fromEntries(paths.slice(1).map((path) => [path, leads])),
  );
});

test('modules of Node lead to modules in other layers, and not to those that a layer has taken away', async () => {
  const base = tar(
    file('app/node_modules/a/package.json', '{"main":"./lib"}'),
    file('app/node_modules/a/lib/index.js', "require('b')"),
    file('app/node_modules/b/index.js', ''),
    file('app/node_modules/c/index.js', ''),
  );
  const app = tar(
    file('usr/local/bin/run', "#!/usr/bin/env node\nrequire('/app/main')\n"),
    file('app/main.js', "const a = require('a');\nrequire('b'); require('c'); require('./late');\n"),
  );
  const last = tar(whiteout('app/node_modules/c'), file('app/late.mjs', ''), file('app/late.js', ''));
  const a = '/app/node_modules/a';
  const paths = ['/usr/local/bin/run', '/app/main.js', `${a}/package.json`, `${a}/lib/index.js`, '/app/late.js'];
  const b = '/app/node_modules/b/index.js';
  expect(await referencesOf([base, app, last], [...paths, b])).toEqual({
    '/usr/local/bin/run': ['/app/main.js'],
    '/app/main.js': [`${a}/package.json`, `${a}/lib/index.js`, b, '/app/late.js'],
    [`${a}/package.json`]: [`${a}/lib/index.js`],
    [`${a}/lib/index.js`]: [b],
  });
});

test('an image of which no file leads to another has no such section', async () => {
  expect(await referencesOf([tar(file('a', layerLike(100_000)), file('b.txt', 'import b'))], [])).toBeNull();
});

// Real registry, real mounts: needs root and /dev/fuse.
test('a mount fetches the files that a file leads to while it is read, unless reading ahead is off', async () => {
  const registry = await startRegistry();
  try {
    const pad = layerLike(5_000_000);
    const modules = [file('app/x/__init__.py', 'from . import far\n'), file('app/x/far.py', 'pass\n')] as const;
    const image = writeImage([tar(modules[0], file('app/a', pad), modules[1], file('app/b', pad))]);
    await registry.push(image.reference, 'app:one');
    image.remove();
    for (const option of [null, '--no-prefetch', '--no-readahead']) {
      const clip = await Clipctl.create();
      try {
        const archive = clip.path('app.clip');
        await clip.ok('index', '--image', `${registry.host}/app:one`, '--out', archive, '--checkpoint', '1');
        const place = await clip.place('mnt');
        await clip.ok('mount', '--clip', archive, '--at', place, ...(option === null ? [] : [option]));
        await readFile(join(place, 'app/x/__init__.py'));
        const counters = async () => (await clip.stats()).counters;
        if (option === null) await eventually(async () => (await counters()).readaheadBytes! > 0);
        else await new Promise((resolve) => setTimeout(resolve, 200));
        const before = await counters();
        await readFile(join(place, 'app/x/far.py'));
        const after = await counters();
        // The module that is read leads to the other one, whose span is then there.
        expect(after.readaheadUsefulBytes).toBe(before.readaheadBytes);
        if (option === null) expect(after.demandBytes).toBe(before.demandBytes);
        else expect(after.readaheadBytes).toBe(0);
        if (option === '--no-readahead') expect([before.spansFetched, after.spansFetched]).toEqual([1, 2]);
      } finally {
        await clip.close();
      }
    }
  } finally {
    await registry.stop();
  }
}, 60_000);

// Needs root and /dev/fuse as well.
test('a mount fetches the files that the command of its reader names', async () => {
  const registry = await startRegistry();
  const clip = await Clipctl.create();
  try {
    const pad = layerLike(5_000_000);
    const named = [file('app/x/named.py', 'from . import far\n'), file('app/x/far.py', 'pass\n')] as const;
    const image = writeImage([tar(file('app/first', 'x'), file('app/a', pad), named[0], file('app/b', pad), named[1])]);
    await registry.push(image.reference, 'app:named');
    image.remove();
    const archive = clip.path('app.clip');
    await clip.ok('index', '--image', `${registry.host}/app:named`, '--out', archive, '--checkpoint', '1');
    const place = await clip.place('mnt');
    await clip.ok('mount', '--clip', archive, '--at', place);
    const reader = ['-e', 'require("fs").readFileSync(process.argv[1])', join(place, 'app/first'), '/app/x/named.py'];
    execFileSync('unshare', ['--mount', '--propagation', 'unchanged', process.execPath, ...reader]);
    const counters = async () => (await clip.stats()).counters;
    // The named file, and the one that it leads to, lie in other spans than the one that was read.
    await eventually(async () => (await counters()).spansFetched! >= 3);
    const before = await counters();
    await readFile(join(place, 'app/x/named.py'));
    await readFile(join(place, 'app/x/far.py'));
    expect((await counters()).demandBytes).toBe(before.demandBytes);
  } finally {
    await clip.close();
    await registry.stop();
  }
}, 60_000);
