import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const src = path.join(root, 'src');

/** docs/architecture.md, "Folders", top to bottom: a folder may import only folders above it. */
const ORDER = [
  'bytes',
  'linux',
  'loader',
  'metrics',
  'paths',
  'gzip',
  'zstd',
  'tar',
  'tree',
  'erofs',
  'archive',
  'legacy',
  'elf',
  'spans',
  'oci',
  's3',
  'cache',
  'lazy',
  'fuse',
  'plane',
  'startup',
  'index',
  'check',
  'store',
  'pack',
  'archives',
  'unpack',
  'wire',
  'keeper',
  'server',
  'client',
  'container',
  'doctor',
  'report',
  'cli',
];
/** Processes that know each other only through wire/. */
const NEVER: Readonly<Record<string, readonly string[]>> = {
  server: ['keeper'],
  client: ['keeper', 'server'],
};
const IMPORT_NOTHING = new Set(['bytes', 'linux', 'loader', 'metrics']);
const CODECS = new Set(['gzip', 'zstd', 'tar', 'tree', 'erofs', 'archive', 'legacy', 'elf', 'spans']);
/** Modules of Node that a codec may use: pure computations. */
const PURE_BUILTINS = new Set(['node:zlib', 'node:crypto', 'node:buffer', 'node:util', 'node:assert']);

/** WebAssembly is a file beside the program: reading one's own code, once, is no I/O in that sense. A test below holds them to it. */
const READ_THEIR_OWN_CODE = new Set(['bytes/crc64.ts', 'gzip/crc32.ts', 'gzip/kernel.ts', 'zstd/decoder.ts']);

interface Import {
  readonly file: string;
  readonly specifier: string;
  /** A worker thread or child process started by file name: it loads in its own time, so it closes no cycle. */
  readonly program?: boolean;
}

const PROGRAM = /\bnew URL\(\s*['"](\.[^'"]+\.js)['"]/g;

function importsOf(file: string, text: string): Import[] {
  const code = text.replaceAll(/\/\*[\s\S]*?\*\//g, '').replaceAll(/^\s*\/\/.*$/gm, '');
  const found: Import[] = [];
  for (const pattern of [
    /^\s*(?:import|export)\b[^'";]*?\bfrom\s*['"]([^'"]+)['"]/gm,
    /^\s*import\s*['"]([^'"]+)['"]/gm,
    /\bimport\(\s*['"]([^'"]+)['"]/g,
    /\brequire\(\s*['"]([^'"]+)['"]/g,
  ]) {
    for (const match of code.matchAll(pattern)) found.push({ file, specifier: match[1]! });
  }
  for (const match of code.matchAll(PROGRAM)) found.push({ file, specifier: match[1]!, program: true });
  return found;
}

/** The rule an import breaks, or null. `file` and the result of resolving `specifier` are relative to src/. */
function broken({ file, specifier, program }: Import): string | null {
  const folder = file.includes('/') ? file.slice(0, file.indexOf('/')) : '';
  if (!specifier.startsWith('.')) {
    if (specifier === 'koffi' && folder !== 'linux') return 'koffi belongs to linux/';
    if (!CODECS.has(folder)) return null;
    if (!specifier.startsWith('node:')) return null; // the I/O of a library cannot be seen here
    if (READ_THEIR_OWN_CODE.has(file) && specifier === 'node:fs') return null;
    // The legacy and gzip readers get bytes; files are opened elsewhere.
    return PURE_BUILTINS.has(specifier) ? null : `codecs do no I/O: ${specifier}`;
  }
  const target = path.posix.join(path.posix.dirname(file), specifier);
  // wire/ tells both sides where each other's program lies. Starting a program is not importing it.
  if (program && file === 'wire/programs.ts' && /^((keeper|server)\/\2-main|cli\/spare-main)\.js$/.test(target))
    return null;
  if (target.startsWith('..')) return 'imports from outside src/';
  const to = target.includes('/') ? target.slice(0, target.indexOf('/')) : '';
  if (to === folder) return null;
  if (to === '') return 'src/index.ts is for users of the package';
  if (folder === '') return target === `${to}/index.js` ? null : `only through ${to}/index.js`;
  if (!ORDER.includes(folder)) return `folder ${folder}/ is not in docs/architecture.md`;
  if (!ORDER.includes(to)) return `folder ${to}/ is not in docs/architecture.md`;
  if (IMPORT_NOTHING.has(folder)) return `${folder}/ imports nothing`;
  if (CODECS.has(folder) && (to === 'linux' || to === 'paths')) return `codecs do no I/O: ${to}/`;
  if (ORDER.indexOf(to) > ORDER.indexOf(folder)) return `${to}/ is below ${folder}/`;
  if (NEVER[folder]?.includes(to)) return `${folder}/ never imports ${to}/`;
  if (target !== `${to}/index.js`) return `only through ${to}/index.js`;
  return null;
}

const files = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter((f) => f.endsWith('.ts') && !f.endsWith('.d.ts') && !/^\w+\/assembly\//.test(f))
  .map((f) => ({ file: f, text: readFileSync(path.join(src, f), 'utf8') }));
const shipped = files.filter(({ file }) => !file.endsWith('.test.ts'));

describe('the import graph', () => {
  it('has no arrow that the design forbids', () => {
    const wrong = shipped
      .flatMap(({ file, text }) => importsOf(file, text))
      .map((i) => ({ ...i, rule: broken(i) }))
      .filter(({ rule }) => rule !== null)
      .map(({ file, specifier, rule }) => `${file}: ${specifier}: ${rule}`);
    expect(wrong).toEqual([]);
    expect(shipped.length).toBeGreaterThan(10);
  });

  it.each([...READ_THEIR_OWN_CODE])('%s reads its WebAssembly and nothing else', (name) => {
    const text = files.find(({ file }) => file === name)!.text;
    expect(text.match(/import .*'node:fs'/g)).toEqual(["import { readFileSync } from 'node:fs'"]);
    const uses = text.match(/readFileSync\(.*/g)!;
    expect(uses.length).toBeGreaterThan(0);
    for (const use of uses) expect(use).toMatch(/^readFileSync\(new URL\('\.\/[\w-]+\.wasm', import\.meta\.url\)\)/);
  });

  it('has no cycle between files, type imports included', () => {
    const graph = new Map(
      shipped.map(({ file, text }) => [
        file,
        importsOf(file, text)
          .filter(({ specifier, program }) => specifier.startsWith('.') && !program)
          .map(({ specifier }) => path.posix.join(path.posix.dirname(file), specifier).replace(/\.js$/, '.ts')),
      ]),
    );
    const state = new Map<string, 'open' | 'done'>();
    const cycles: string[] = [];
    const visit = (file: string, trail: string[]): void => {
      if (state.get(file) === 'done') return;
      if (state.get(file) === 'open') {
        cycles.push([...trail.slice(trail.indexOf(file)), file].join(' → '));
        return;
      }
      state.set(file, 'open');
      for (const next of graph.get(file) ?? []) visit(next, [...trail, file]);
      state.set(file, 'done');
    };
    for (const file of graph.keys()) visit(file, []);
    expect(cycles).toEqual([]);
  });

  it('has no default export', () => {
    expect(files.filter(({ text }) => /^export default\b/m.test(text)).map(({ file }) => file)).toEqual([]);
  });

  it.each([
    ['gzip/a.ts', 'node:fs', 'codecs do no I/O: node:fs'],
    ['tar/a.ts', '../linux/index.js', 'codecs do no I/O: linux/'],
    ['gzip/a.ts', '../oci/index.js', 'oci/ is below gzip/'],
    ['oci/a.ts', '../gzip/inflate.js', 'only through gzip/index.js'],
    ['fuse/a.ts', 'koffi', 'koffi belongs to linux/'],
    ['bytes/a.ts', '../metrics/index.js', 'bytes/ imports nothing'],
    ['cli/a.ts', '../index.js', 'src/index.ts is for users of the package'],
    ['archive/legacy/a.ts', '../../tree/index.js', null],
    ['archive/legacy/a.ts', '../writer.js', null],
    ['lazy/a.ts', '../cache/index.js', null],
    ['lazy/ahead/a.ts', '../../cache/index.js', null],
    ['client/a.ts', '../server/index.js', 'client/ never imports server/'],
    ['server/a.ts', '../keeper/index.js', 'server/ never imports keeper/'],
    ['keeper/a.ts', '../server/index.js', 'server/ is below keeper/'],
    ['index.ts', './client/index.js', null],
  ])('judges %s importing %s', (file, specifier, rule) => {
    expect(broken({ file, specifier })).toBe(rule);
  });

  it('sees every way to import', () => {
    const text = [
      "import { a } from './a.js';",
      "import type { b } from './b.js';",
      "import {\n  c,\n  d,\n} from './c.js';",
      "export * from './d.js';",
      "import './e.js';",
      "const f = await import('./f.js');",
      "new Worker(new URL('./g.js', import.meta.url))",
      "// import { x } from './x.js';",
    ].join('\n');
    const found = importsOf('t.ts', text).map(({ specifier }) => specifier);
    expect(found.sort()).toEqual(['./a.js', './b.js', './c.js', './d.js', './e.js', './f.js', './g.js']);
  });
});
