// Makes dist/lib/, which the package ships and bin/clipctl.js runs: each program in few files, because loading a hundred small ones
// takes Node longer than mounting an image. CommonJS, because Node 20 starts its loader for ES modules only if it meets one.
// Files lie side by side: a program of another folder, new URL('../server/server-main.js', import.meta.url), is ./server-main.js here.
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { rolldown } from 'rolldown';
import { dts } from 'rolldown-plugin-dts';
import { thirdPartyLicences } from './licences.mjs';

process.chdir(path.join(import.meta.dirname, '..'));
const out = 'dist/lib';

/** By the name under which other programs start them. */
const programs = {
  index: 'src/index.ts',
  clipctl: 'src/cli/main.ts',
  'keeper-main': 'src/keeper/keeper-main.ts',
  'server-main': 'src/server/server-main.ts',
  worker: 'src/fuse/worker.ts',
  'page-drops-main': 'src/fuse/page-drops-main.ts',
  'rewrite-worker': 'src/plane/rewrite-worker.ts',
  'inflate-worker': 'src/lazy/inflate-worker.ts',
  'decode-worker': 'src/index/decode-worker.ts',
  'digest-worker': 'src/index/digest-worker.ts',
  'unpack-worker': 'src/unpack/unpack-worker.ts',
  'pack-worker': 'src/pack/pack-worker.ts',
};
const assets = [
  'dist/src/gzip/inflate.wasm',
  'dist/src/gzip/inflate-shared.wasm',
  'dist/src/zstd/zstd.wasm',
  'src/container/seccomp-moby.json',
];

const { version, dependencies, peerDependencies } = JSON.parse(readFileSync('package.json', 'utf8'));

const bundle = await rolldown({
  input: programs,
  platform: 'node',
  // Every start needs Commander, a development dependency. These load from node_modules when they are used.
  external: Object.keys({ ...dependencies, ...peerDependencies }),
  transform: { define: { CLIP_VERSION: JSON.stringify(version) } },
  // A folder's index.ts brings only what is used of it: clipctl must not load koffi because wire/ also passes descriptors.
  treeshake: { moduleSideEffects: false },
  plugins: [
    {
      name: 'programs-side-by-side',
      transform: (code) => code.replaceAll(/(\bnew URL\(\s*['"])\.\.\/[\w/-]+\/([\w-]+\.js['"])/g, '$1./$2'),
    },
  ],
});
/**
 * What every mount and every `run` needs of folders that are otherwise loaded as a whole, when something is fetched: in chunks of their
 * own, or it would come with all of that.
 */
const groups = [
  // First, because the others would take these along: every start needs them.
  { name: 'bytes', test: /src\/bytes\//, priority: 1 },
  { name: 'archive-origin', test: /src\/check\/(read-image|storage)\.ts$/ },
  { name: 'image-reference', test: /src\/oci\/(reference|platform)\.ts$/ },
];
const { output } = await bundle.generate({
  format: 'cjs',
  chunkFileNames: '[name].js',
  minify: false,
  codeSplitting: { groups },
});

// One file of types: what it declares and does not export is not public (test/e2e/package-types.test.ts).
const types = await rolldown({
  input: { index: 'dist/src/index.d.ts' },
  external: /^[^./]/,
  plugins: [dts({ dtsInput: true, emitDtsOnly: true, tsconfig: false })],
});
const [{ code: declarations }] = (await types.generate({ format: 'es' })).output;

mkdirSync(out, { recursive: true });
const files = new Map([['package.json', '{ "type": "commonjs" }\n']]);
for (const chunk of output) files.set(chunk.fileName, chunk.code ?? chunk.source);
// Importers and requirers get the same objects: instanceof ClipError holds in a program that does both.
const { exports: names } = output.find(({ fileName }) => fileName === 'index.js');
files.set('index.mjs', `export {\n${names.map((name) => `  ${name},\n`).join('')}} from './index.js';\n`);
files.set('index.d.ts', declarations);
files.set('index.d.mts', declarations);
const moduleIds = output.flatMap((chunk) => chunk.moduleIds ?? []);
const assetNames = assets.map((asset) => path.basename(asset));
files.set('THIRD_PARTY_LICENSES', thirdPartyLicences(moduleIds, assetNames));
// Only changed files are written, so a build does not replace files of a running program.
for (const [name, text] of files) {
  const file = path.join(out, name);
  if (!existsSync(file) || readFileSync(file, 'utf8') !== text) writeFileSync(file, text);
}
for (const asset of assets) {
  const copy = path.join(out, path.basename(asset));
  if (!existsSync(copy) || !readFileSync(copy).equals(readFileSync(asset))) copyFileSync(asset, copy);
  files.set(path.basename(asset), '');
}
for (const name of readdirSync(out)) if (!files.has(name)) rmSync(path.join(out, name));
