// Makes dist/lib/, which the package ships and bin/clipctl.js runs: each program in few files, because loading a hundred small ones
// takes Node longer than mounting an image. CommonJS, because Node 20 starts its loader for ES modules only if it meets one.
// Files lie side by side: a program of another folder, new URL('../server/server-main.js', import.meta.url), is ./server-main.js here.
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { rolldown } from 'rolldown';
import { dts } from 'rolldown-plugin-dts';
import { thirdPartyLicences } from './licences.mjs';

process.chdir(path.join(import.meta.dirname, '..'));
const out = 'dist/lib';

/**
 * Programs by the name under which others start them. Those that every mount waits for and that need little are bundled on their own, because
 * a chunk that two programs share holds what either of them needs; the rest shares its chunks. `groups`: what is loaded in one go, with all
 * that it imports and that no group of a higher priority has.
 */
const builds = [
  {
    programs: {
      index: 'src/index.ts',
      clipctl: 'src/cli/main.ts',
      'spare-main': 'src/cli/spare-main.ts',
      'server-main': 'src/server/server-main.ts',
      'decode-worker': 'src/index/decode-worker.ts',
      'digest-worker': 'src/index/digest-worker.ts',
      'unpack-worker': 'src/unpack/unpack-worker.ts',
      'pack-worker': 'src/pack/pack-worker.ts',
      'rewrite-worker': 'src/plane/rewrite-worker.ts',
      'page-drops-main': 'src/fuse/page-drops-main.ts',
    },
    groups: [
      // A keeper boots while the rest of clipctl is loaded.
      { name: 'early', test: /src\/cli\/early-start\.ts$/ },
      // Without what only a server needs of metrics/.
      { name: 'bytes', test: /src\/(bytes|loader)\/|src\/metrics\/(?!catalogue|families|histogram|telemetry)/ },
      // What the threads of an index build need, and every client of it: without it they would load all of a client and of oci/.
      { name: 'codecs', test: /src\/(gzip\/state|tar\/(columns|format|number|packed-entries))\.ts$/ },
      { name: 'tar', test: /src\/tar\/parser\.ts$/ },
      { name: 'linux', test: /src\/linux\// },
      // All that a thread needs that writes a tree for the kernel; of it what clients need, too.
      { name: 'erofs', test: /src\/erofs\/reader\.ts$/ },
      { name: 'rewrite', test: /src\/erofs\/rewrite\.ts$/ },
      { name: 'wire', test: /src\/(wire|paths)\// },
      { name: 'commander', test: /node_modules\/commander\// },
      // A FUSE thread boots while the rest of a server is loaded.
      { name: 'server-base', test: /src\/server\/run-server\.ts$/ },
      // What every mount needs, and what every `run` needs besides.
      {
        name: 'client',
        test: /src\/client\/(index|mount-client|archive-origin|registry-access|exchange)\.ts$|src\/oci\/platform\.ts$/,
      },
      { name: 'mount', test: /src\/cli\/commands\/mount\.ts$/ },
      // Without which the server would load all of oci/ before it serves.
      { name: 'addresses', test: /src\/oci\/(addresses|errors|wrong-answers)\.ts$/ },
      { name: 'oci', test: /src\/oci\/index\.ts$/ },
      { name: 'server-engine', test: /src\/server\/(engine|mount-list|api\/(http|routes))\.ts$/ },
      { name: 'run', test: /src\/(cli\/commands\/run|cli\/run-stats|container\/index)\.ts$/ },
    ],
  },
  { programs: { 'keeper-main': 'src/keeper/keeper-main.ts' } },
  { programs: { worker: 'src/fuse/worker.ts' } },
  { programs: { 'inflate-worker': 'src/lazy/inflate-worker.ts' } },
];
/**
 * Loaded by src/loader/, with the compiled code of an earlier run; the expression gives the name of a variant. clipctl has one for each
 * command, because each loads something else.
 */
const cached = {
  clipctl: "(/^[a-z]{2,12}$/.test(process.argv[2]) ? '-' + process.argv[2] : '')",
  'spare-main': "''",
  'keeper-main': "''",
  'server-main': "''",
  worker: "''",
  'inflate-worker': "''",
  'decode-worker': "''",
  'digest-worker': "''",
};
const assets = [
  'dist/src/bytes/crc64.wasm',
  'dist/src/gzip/fold.wasm',
  'dist/src/gzip/fold-shared.wasm',
  'dist/src/gzip/inflate.wasm',
  'dist/src/gzip/inflate-shared.wasm',
  'dist/src/startup/search.wasm',
  'dist/src/zstd/zstd.wasm',
  'src/container/seccomp-moby.json',
  'dist/src/report/report.html',
];

/**
 * Binds what a file imports from a folder's index.ts to the files that define it: chunks follow files, and one that imports a single
 * function of a folder would come with the whole folder.
 */
const directImports = {
  name: 'direct-imports',
  transform(code, id) {
    if (!id.endsWith('.ts') || id.endsWith('.d.ts')) return null;
    const front = (relative) => path.resolve(path.dirname(id), relative.replace(/js$/, 'ts'));
    const loaded = code.replaceAll(
      /\bconst \{([^}]*)\} = await import\('((?:\.\.\/)+[\w/-]+\/index\.js)'\);/g,
      (statement, list, relative) => {
        const homes = definitionsOf(front(relative));
        const items = list.split(',').map((text) => text.trim().split(': '));
        const found = items.map(([name]) => homes.get(name));
        // The names of one file: from several, their folder's front is one import in place of several.
        if (found.some((home) => home === undefined || home.name === '*' || home.file !== found[0].file))
          return statement;
        const names = items.map(([name, local = name], i) => `${found[i].name}: ${local}`);
        return `const { ${names.join(', ')} } = await import(${JSON.stringify(found[0].file)});`;
      },
    );
    return loaded.replaceAll(
      /^(import|export) \{([^}]*)\} from '((?:\.\.\/)+[\w/-]+\/index\.js)';$/gm,
      (statement, verb, list, relative) => {
        const homes = definitionsOf(front(relative));
        const direct = [];
        for (const item of list.split(',').map((text) => text.trim())) {
          if (item === '' || item.startsWith('type ')) continue;
          const [imported, local = imported] = item.split(' as ');
          const home = homes.get(imported);
          if (home === undefined) return statement;
          const source = JSON.stringify(home.file);
          if (home.name === '*') {
            if (verb === 'export') return statement;
            direct.push(`import * as ${local} from ${source};`);
          } else direct.push(`${verb} { ${home.name} as ${local} } from ${source};`);
        }
        return direct.join(' ');
      },
    );
  },
};

const fronts = new Map();

/** Where the names that an index.ts exports are defined: its `export … from` statements, followed through other fronts. */
function definitionsOf(front) {
  const known = fronts.get(front);
  if (known !== undefined) return known;
  const found = new Map();
  fronts.set(front, found);
  const text = readFileSync(front, 'utf8');
  const fileOf = (source) => path.resolve(path.dirname(front), source.replace(/js$/, 'ts'));
  for (const [, name, source] of text.matchAll(/^export \* as (\w+) from '([^']+)';$/gm)) {
    found.set(name, { file: fileOf(source), name: '*' });
  }
  for (const [, list, source] of text.matchAll(/^export \{([^}]*)\} from '([^']+)';$/gm)) {
    for (const item of list.split(',').map((part) => part.trim())) {
      if (item === '' || item.startsWith('type ')) continue;
      const [name, exported = name] = item.split(' as ');
      const file = fileOf(source);
      const further = file.endsWith('/index.ts') ? definitionsOf(file).get(name) : undefined;
      found.set(exported, further ?? { file, name });
    }
  }
  return found;
}

/** Files lie side by side in dist/lib/. */
const sideBySide = {
  name: 'programs-side-by-side',
  transform: (code) => code.replaceAll(/(\bnew URL\(\s*['"])\.\.\/[\w/-]+\/([\w-]+\.js['"])/g, '$1./$2'),
};

const { version, dependencies, peerDependencies } = JSON.parse(readFileSync('package.json', 'utf8'));

/** The page of `clipctl report`, with everything but its data. Its modules are listed for their licences. */
async function makeReportPage() {
  const page = await rolldown({ input: 'src/report/browser/page.js', platform: 'browser' });
  const [chunk] = (await page.generate({ format: 'iife', minify: true })).output;
  const style =
    readFileSync('node_modules/uplot/dist/uPlot.min.css', 'utf8') + readFileSync('src/report/browser/page.css', 'utf8');
  const parts = { STYLE: style, SCRIPT: chunk.code.replaceAll('</script', '<\\/script') };
  const html = readFileSync('src/report/browser/page.html', 'utf8').replaceAll(
    /\/\*(STYLE|SCRIPT)\*\//g,
    (_, part) => parts[part],
  );
  mkdirSync('dist/src/report', { recursive: true });
  const file = 'dist/src/report/report.html';
  if (!existsSync(file) || readFileSync(file, 'utf8') !== html) writeFileSync(file, html);
  return chunk.moduleIds;
}
const pageModules = await makeReportPage();

/** What tsc has made of src/cli/, which runs here, describes its own commands. */
async function makeManualPage() {
  const cli = (name) => import(path.resolve('dist/src/cli', name));
  const [{ registerCommands }, { describeCommand }, { manualPage }, { Command }] = await Promise.all([
    cli('commands/index.js'),
    cli('command-tree.js'),
    cli('manual-page.js'),
    import('commander'),
  ]);
  const program = new Command('clipctl');
  await registerCommands(program, []);
  return manualPage(describeCommand(program), version);
}

const plugins = [directImports, sideBySide];
// Every start needs Commander, a development dependency. These load from node_modules when they are used.
const external = Object.keys({ ...dependencies, ...peerDependencies });

async function bundle({ programs, groups = [] }) {
  const build = await rolldown({
    input: Object.fromEntries(
      Object.entries(programs).map(([name, from]) => [name in cached ? `${name}.program` : name, from]),
    ),
    platform: 'node',
    external,
    transform: { define: { CLIP_VERSION: JSON.stringify(version) } },
    // A folder's index.ts brings only what is used of it: clipctl must not load koffi because wire/ also passes descriptors.
    treeshake: { moduleSideEffects: false },
    // The library imports at once what clipctl imports on first use; the groups say what shares a chunk.
    checks: { ineffectiveDynamicImport: false },
    plugins,
  });
  const [first, ...others] = Object.keys(programs);
  const prefix = others.length === 0 ? `${first}-` : '';
  const named = new Set(groups.map(({ name }) => name));
  const { output } = await build.generate({
    format: 'cjs',
    chunkFileNames: ({ name }) => (named.has(name) ? '[name].js' : `${prefix}[name].js`),
    minify: { compress: true, mangle: { toplevel: false, keepNames: true }, codegen: { removeWhitespace: true } },
    comments: false,
    // require() in its place: scripts of src/loader/ have no import().
    dynamicImportInCjs: false,
    codeSplitting: { groups: groups.map((group, i) => ({ ...group, priority: groups.length - i })) },
  });
  return output.map(({ fileName, code, moduleIds, exports }) => {
    const text = ascii(code);
    const id = createHash('sha256').update(text).digest('hex').slice(0, 16);
    return { fileName, code: `${text}\n//# id ${id}\n`, moduleIds, exports };
  });
}

/** V8 keeps text of ASCII alone in half the memory, and reads it without decoding. What else there is stands in strings and patterns. */
function ascii(code) {
  return code.replaceAll(/[\u0080-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

const output = (await Promise.all(builds.map(bundle))).flat();
const [loader] = await bundle({ programs: { loader: 'src/loader/run-program.ts' } });
for (const [name, variant] of Object.entries(cached)) {
  const start = `exports.runProgram(__dirname, '${name}.program', ${variant}, require);\n`;
  output.push({ ...loader, fileName: `${name}.js`, code: `${loader.code}${start}` });
}

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
// The same types, by the objects that index.mjs passes on.
files.set('index.d.mts', "export * from './index.js';\n");
files.set('clipctl.1', await makeManualPage());
const moduleIds = [...output.flatMap((chunk) => chunk.moduleIds ?? []), ...pageModules];
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
