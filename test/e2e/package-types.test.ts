import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const bin = (name: string): string => path.join(root, 'node_modules/.bin', name);

/** A program that passes `undefined` for every option, imports values and types, and prints what an error is. */
const PROGRAM = `
const absent = undefined;
const indexOptions: CreateFromOCIImageOptions = {
  imageRef: '', outputPath: '/nonexistent/x.clip', checkpointMiB: absent, storageImageRef: absent, platform: absent,
  credentials: absent, plainHttp: absent, hashes: absent,
  layerIndexDirectory: absent, registryLayerIndexes: absent, signal: absent, onProgress: absent, onWarning: absent,
};
const mountOptions: MountArchiveOptions = {
  archivePath: '/nonexistent', mountPoint: '/nonexistent', cachePath: absent, cacheSize: absent, credentials: absent,
  storageInfo: absent, plainHttp: absent, readahead: absent, prefetch: absent, fill: absent, contentCache: absent, profileSharing: absent,
  readTimeout: absent, suid: absent, dev: absent,
};
const login: Credentials = { username: absent, password: absent, identityToken: absent, registryToken: absent };
const cache: ContentCache = {
  getContent: async (hash: string, offset: number, length: number) => (hash === '' ? null : new Uint8Array(length - offset)),
  storeContent: async (_chunks, hash) => hash,
};
async function main(): Promise<void> {
  void [mountOptions, login, cache, mountArchive];
  try {
    await createFromOCIImage(indexOptions);
  } catch (error) {
    if (!(error instanceof ClipError)) throw error;
    const code: ErrorCode = error.code;
    console.log(code);
  }
}
void main();
`;
const NAMES =
  'ClipError, type ContentCache, createFromOCIImage, type CreateFromOCIImageOptions, type Credentials, type ErrorCode, mountArchive, type MountArchiveOptions';

const STRICT = {
  strict: true,
  exactOptionalPropertyTypes: true,
  noUncheckedIndexedAccess: true,
  skipLibCheck: false,
  target: 'es2022',
  types: ['node'],
  outDir: 'out',
};

/** How projects resolve and load a package. `run`: what TypeScript emits for it runs in Node as it is. */
const PROJECTS = [
  { name: 'node16, ESM', options: { module: 'node16', moduleResolution: 'node16' }, type: 'module' },
  { name: 'node16, CommonJS', options: { module: 'node16', moduleResolution: 'node16' }, type: 'commonjs' },
  { name: 'nodenext, ESM', options: { module: 'nodenext', moduleResolution: 'nodenext' }, type: 'module' },
  { name: 'nodenext, CommonJS', options: { module: 'nodenext', moduleResolution: 'nodenext' }, type: 'commonjs' },
  { name: 'bundler, ESM', options: { module: 'esnext', moduleResolution: 'bundler' }, type: 'module' },
  { name: 'bundler, CommonJS', options: { module: 'commonjs', moduleResolution: 'bundler' }, type: 'commonjs' },
];

describe('in projects that use it', () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'clip-projects-'));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  beforeAll(() => {
    mkdirSync(path.join(directory, 'node_modules/@types'), { recursive: true });
    symlinkSync(root, path.join(directory, 'node_modules/clipfs'));
    symlinkSync(path.join(root, 'node_modules/@types/node'), path.join(directory, 'node_modules/@types/node'));
  });

  it.each(PROJECTS)('compiles and runs under $name', ({ name, options, type }) => {
    const project = path.join(directory, name.replaceAll(/\W+/g, '-'));
    mkdirSync(project);
    writeFileSync(path.join(project, 'package.json'), JSON.stringify({ type }));
    writeFileSync(path.join(project, 'main.ts'), `import { ${NAMES} } from 'clipfs';\n${PROGRAM}`);
    const config = { compilerOptions: { ...STRICT, ...options, rootDir: '.' }, files: ['main.ts'] };
    writeFileSync(path.join(project, 'tsconfig.json'), JSON.stringify(config));
    const compiled = spawnSync(bin('tsc'), ['-p', project], { encoding: 'utf8' });
    expect(compiled.stdout + compiled.stderr).toBe('');
    const output = path.join(project, 'out/main.js');
    expect(readFileSync(output, 'utf8').includes('require(')).toBe(type === 'commonjs');
    expect(execFileSync(process.execPath, [output], { encoding: 'utf8' })).toBe('BAD_REFERENCE\n');
  });

  it('gives require() and import the same classes', () => {
    const script = `
      const required = require('clipfs');
      import('clipfs').then((imported) => {
        const different = Object.keys(required).filter((name) => required[name] !== imported[name]);
        console.log(JSON.stringify([different, Object.keys(imported).length === Object.keys(required).length]));
      });`;
    const text = execFileSync(process.execPath, ['-e', script], { cwd: directory, encoding: 'utf8' });
    expect(JSON.parse(text)).toEqual([[], true]);
  });
});

test('the types are one file, and declare nothing that it does not export', () => {
  const text = readFileSync(path.join(root, 'dist/lib/index.d.ts'), 'utf8');
  expect(existsSync(path.join(root, 'dist/lib/index.d.mts'))).toBe(true);
  const declared = [
    ...text.matchAll(/^(?:declare )?(?:abstract )?(?:class|interface|type|function|const|enum) (\w+)/gm),
  ];
  const exported = /^export \{ ([^}]+) \};$/m
    .exec(text)![1]!
    .split(', ')
    .map((name) => name.replace(/^type /, ''));
  expect(declared.length).toBeGreaterThan(20);
  expect(declared.map((match) => match[1]!).filter((name) => !exported.includes(name))).toEqual([]);
  // Types of other packages would have to be installed for these to be read.
  expect(
    [...text.matchAll(/from ['"]([^'"]+)['"]/g)].map((match) => match[1]).filter((name) => !name!.startsWith('node:')),
  ).toEqual([]);
});

/** Packed once: both tools read the tarball that npm would publish. */
describe('the tarball', () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'clip-tarball-'));
  const tarball = path.join(directory, 'clipfs-0.1.0.tgz');
  let said = '';
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  beforeAll(() => {
    const packed = spawnSync('npm', ['pack', '--ignore-scripts', '--pack-destination', directory], {
      cwd: root,
      encoding: 'utf8',
    });
    said = packed.stderr;
    expect(packed.status).toBe(0);
  });

  it('is packed without a warning', () => {
    expect(said.split('\n').filter((line) => /^npm (warn|error)/i.test(line))).toEqual([]);
  });

  it('is clean to publint', () => {
    const run = spawnSync(bin('publint'), ['run', tarball, '--strict'], { cwd: directory, encoding: 'utf8' });
    expect({ status: run.status, text: run.stdout + run.stderr }).toEqual({
      status: 0,
      text: expect.stringContaining('All good!'),
    });
  });

  it('is clean to are-the-types-wrong', () => {
    const run = spawnSync(bin('attw'), [tarball, '--format', 'json'], { cwd: directory, encoding: 'utf8' });
    const { analysis } = JSON.parse(run.stdout) as { analysis: { problems: unknown[]; entrypoints: object } };
    expect(run.status).toBe(0);
    expect(analysis.problems).toEqual([]);
    expect(Object.keys(analysis.entrypoints)).toEqual(['.', './package.json']);
  });
});
