import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Clipctl } from '../support/clipctl.js';
import { writeImage } from '../support/images.js';
import { file, tar } from '../support/tar.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));

/** The files that `npm pack` takes, in a directory of their own, beside the dependencies that npm would install. */
describe('the package', () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'clip-package-'));
  const home = path.join(directory, 'node_modules/clipfs');
  let packed: string[] = [];
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  beforeAll(() => {
    const report = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
      cwd: root,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    packed = (JSON.parse(report) as { files: { path: string }[] }[])[0]!.files.map((entry) => entry.path);
    for (const name of packed) cpSync(path.join(root, name), path.join(home, name));
    const { dependencies } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
      dependencies: Record<string, string>;
    };
    for (const name of Object.keys(dependencies)) {
      const link = path.join(directory, 'node_modules', name);
      mkdirSync(path.dirname(link), { recursive: true });
      symlinkSync(path.join(root, 'node_modules', name), link);
    }
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
    expect(packed).toContain('dist/src/index.d.ts');
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
