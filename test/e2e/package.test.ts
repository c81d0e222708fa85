import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl, runProgram } from '../support/clipctl.js';
import { writeImage } from '../support/images.js';
import { file, tar } from '../support/tar.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));

const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
  dependencies: Record<string, string>;
  peerDependencies: Record<string, string>;
};
const installed = new Set(Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies }));
const lock = JSON.parse(readFileSync(path.join(root, 'package-lock.json'), 'utf8')) as {
  packages: Record<string, { dependencies?: Record<string, string> }>;
};

/** The packages that the program's source imports. */
function importedPackages(): string[] {
  const sources = readdirSync(path.join(root, 'src'), { recursive: true, encoding: 'utf8' });
  const programs = sources.filter((name) => name.endsWith('.ts') && !/\.(test|fixture)\.ts$|assembly/.test(name));
  return programs.flatMap((name) => {
    const text = readFileSync(path.join(root, 'src', name), 'utf8');
    const imports = text.matchAll(/^import (?!type )[^'";]*from '([^.'][^']*)'|import\('([^.'][^']*)'\)/gm);
    return [...imports].map((match) => match[1] ?? match[2]!).filter((specifier) => !specifier.startsWith('node:'));
  });
}

/** The files that `npm pack` takes, in a directory of their own, beside the dependencies that npm would install. */
describe('the package', () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'clip-package-'));
  const home = path.join(directory, 'node_modules/clipfs');
  let packed: string[] = [];
  let tarballBytes = 0;
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  beforeAll(() => {
    const report = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
      cwd: root,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const [archive] = JSON.parse(report) as { size: number; files: { path: string }[] }[];
    tarballBytes = archive!.size;
    packed = archive!.files.map((entry) => entry.path);
    for (const name of packed) cpSync(path.join(root, name), path.join(home, name));
    for (const name of Object.keys(manifest.dependencies)) {
      const link = path.join(directory, 'node_modules', name);
      mkdirSync(path.dirname(link), { recursive: true });
      symlinkSync(path.join(root, 'node_modules', name), link);
    }
  });

  it('a container of an image that was indexed before starts without the registry client and the engine', () => {
    const loaded = new Set<string>();
    const load = (name: string): void => {
      if (loaded.has(name)) return;
      loaded.add(name);
      const text = readFileSync(path.join(home, 'dist/lib', name), 'utf8');
      for (const [, next] of text.matchAll(/\brequire_\w+=require\("\.\/([\w-]+\.js)"\)/g)) load(next!);
      // Loaded on the way to the image's archive: the store's own file, not its folder with all that it exports.
      if (name === 'mount.js') expect(text).not.toContain('require("./store.js")');
    };
    load('run.js');
    expect([...loaded].sort()).toEqual(
      [
        ...['bytes', 'client', 'codecs', 'commander', 'early', 'erofs', 'linux'],
        ...['mount', 'rewrite', 'rolldown-runtime', 'run', 'wire'],
      ].map((one) => `${one}.js`),
    );
  });

  it('holds every program that another one starts, and every module that one loads', () => {
    const programs = packed.filter((name) => name.startsWith('dist/lib/') && name.endsWith('.js'));
    expect(programs.length).toBeGreaterThan(10);
    const missing = programs.flatMap((name) => {
      const text = readFileSync(path.join(home, name), 'utf8');
      return [...text.matchAll(/(?:new URL|require)\("(\.\/[^"]+)"/g)]
        .map((match) => path.join('dist/lib', match[1]!))
        .filter((target) => !packed.includes(target));
    });
    expect(missing).toEqual([]);
    expect(packed.filter((name) => /\.test\.|^test\/|^bench\//.test(name))).toEqual([]);
  });

  it('exports the names of src/index.ts, with types', async () => {
    const names = execFileSync(
      process.execPath,
      ['--input-type=module', '-e', 'console.log(JSON.stringify(Object.keys(await import("clipfs"))))'],
      { cwd: directory, encoding: 'utf8' },
    );
    const source = await import('../../src/index.js');
    const exported = (JSON.parse(names) as string[]).filter((name) => name !== 'default' && name !== 'module.exports');
    expect(exported.sort()).toEqual(Object.keys(source).sort());
    expect(packed.filter((name) => /\.d\.[cm]?ts$/.test(name))).toEqual([
      'dist/lib/index.d.mts',
      'dist/lib/index.d.ts',
    ]);
  });

  it('has the licence of everything that is bundled or compiled into it', () => {
    const text = readFileSync(path.join(home, 'dist/lib/THIRD_PARTY_LICENSES'), 'utf8');
    const parts = text.split(/^-{100}$/m).slice(1);
    const licences = new Map(
      parts.flatMap((part, i) => (i % 2 === 0 ? [[part.trim().split(' ')[0]!, parts[i + 1]!]] : [])),
    );
    // What src/ imports and npm does not install beside it is bundled, with all that it depends on.
    const bundled = new Set<string>();
    const add = (name: string): void => {
      if (bundled.has(name)) return;
      bundled.add(name);
      for (const next of Object.keys(lock.packages[`node_modules/${name}`]!.dependencies ?? {})) add(next);
    };
    for (const specifier of importedPackages()) {
      const name = specifier
        .split('/')
        .slice(0, specifier.startsWith('@') ? 2 : 1)
        .join('/');
      if (installed.has(name)) continue;
      // By a path inside of a package comes that module, without what the package depends on.
      if (specifier === name) add(name);
      else bundled.add(name);
    }
    expect([...bundled]).toContain('commander');
    expect([...bundled].filter((name) => !licences.has(name))).toEqual([]);
    expect(licences.get('commander')).toContain('TJ Holowaychuk');
    expect([...bundled]).toContain('prom-client');
    expect(licences.get('uplot')).toContain('MIT License');
    expect(licences.get('zstddec')).toContain('For Zstandard software');
    expect(licences.get('assemblyscript')).toContain('Apache License');
    expect(licences.get('moby/profiles')).toContain('Apache License');
    const others = packed.filter(
      (name) => /^dist\/lib\/.*\.(wasm|json)$/.test(name) && !name.endsWith('/package.json'),
    );
    expect(others.map((name) => path.basename(name)).sort()).toEqual([
      'crc64.wasm',
      'fold-shared.wasm',
      'fold.wasm',
      'inflate-shared.wasm',
      'inflate.wasm',
      'search.wasm',
      'seccomp-moby.json',
      'zstd.wasm',
    ]);
  });

  it('takes little room: the tarball, and all that npm installs', () => {
    expect(tarballBytes).toBeLessThan(600_000);
    const listed = execFileSync('npm', ['ls', '--omit=dev', '--all', '--parseable'], { cwd: root, encoding: 'utf8' });
    const directories = listed.trim().split('\n').slice(1);
    expect(directories.length).toBeGreaterThan(10);
    expect(directories.filter((name) => /@aws-sdk|commander/.test(name))).toEqual([]);
    const blocks = execFileSync('du', ['-sk', home, ...directories], { encoding: 'utf8' })
      .trim()
      .split('\n');
    const kibibytes = blocks.reduce((sum, line) => sum + Number.parseInt(line, 10), 0);
    expect(kibibytes * 1024).toBeLessThan(15_000_000);
  });

  it('says what to install for S3', async () => {
    const clip = await Clipctl.create();
    try {
      const args = ['mount', '--clip', '/nonexistent', '--at', '/', '--content-cache', 's3://bucket'];
      const { code, stderr } = await runProgram(process.execPath, [path.join(home, 'bin/clipctl.js'), ...args], {
        cwd: directory,
        env: clip.env,
      });
      expect({ code, stderr }).toEqual({
        code: EXIT_CODES.UNSUPPORTED,
        stderr:
          'clipctl: S3 needs a library that is not installed\n  npm install @aws-sdk/client-s3 @aws-sdk/lib-storage, with -g where clipfs is installed with -g\n',
      });
    } finally {
      await clip.close();
    }
  });

  it('indexes, mounts and reads', async () => {
    const image = writeImage([tar(file('hello', 'from the package'))]);
    const clip = await Clipctl.create();
    try {
      const mountPoint = await clip.place('mnt');
      const program = path.join(home, 'bin/clipctl.js');
      const run = (...args: string[]): string =>
        execFileSync(process.execPath, [program, ...args], { env: clip.env, encoding: 'utf8' });
      expect(run('--version')).toMatch(/^\d+\.\d+\.\d+\n$/);
      run('index', '--image', image.reference, '--out', clip.path('a.clip'));
      run('mount', '--clip', clip.path('a.clip'), '--at', mountPoint);
      expect(readFileSync(path.join(mountPoint, 'hello'), 'utf8')).toBe('from the package');
      run('umount', mountPoint);
    } finally {
      await clip.close();
      image.remove();
    }
  });
});
