import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { decodeCodeFile, encodeCodeFile } from './code-file.js';
import { keepCode } from './index.js';
import { runProgram } from './run-program.js';

describe('a file of compiled code', () => {
  const chunks = new Map([
    ['a.js', { id: '0123456789abcdef', code: Buffer.from([1, 2, 3]) }],
    ['b.js', { id: 'fedcba9876543210', code: Buffer.alloc(100, 7) }],
  ]);

  it('gives each chunk its code back, at a multiple of 8', () => {
    const bytes = Buffer.from(encodeCodeFile(chunks, 1));
    const { chunks: found, depth } = decodeCodeFile(bytes);
    expect(depth).toBe(1);
    expect([...found.keys()]).toEqual(['a.js', 'b.js']);
    for (const [name, { id, code }] of chunks) {
      expect(found.get(name)!.id).toBe(id);
      expect(Buffer.compare(found.get(name)!.code, code)).toBe(0);
      expect((found.get(name)!.code.byteOffset - bytes.byteOffset) % 8).toBe(0);
    }
  });

  it('is empty when it is cut off anywhere, or is something else', () => {
    const bytes = Buffer.from(encodeCodeFile(chunks, 1));
    // Its last bytes are padding.
    for (let length = 0; length < bytes.length - 4; length++) {
      expect(decodeCodeFile(bytes.subarray(0, length)).chunks.size).toBe(0);
    }
    for (const text of [
      '',
      '\n',
      'null\n',
      '{}\n',
      '{"format":3,"chunks":{}}\n',
      '[1]\n',
      '{"format":2,"chunks":{"a.js":["x",-9,4]}}\n      ',
    ]) {
      expect(decodeCodeFile(Buffer.from(text)).chunks.size).toBe(0);
    }
  });
});

/** What `inlineLess` sets. */
const LESS = '--max-inlined-bytecode-size-cumulative=120';
const loaderModule = new URL('./run-program.js', import.meta.url).href;
const ALONE = `
  globalThis.loaderTest = [];
  const { runProgram } = await import(process.argv[1]);
  runProgram(process.argv[2], 'program', '', (await import('node:module')).createRequire(import.meta.url));
  process.stdout.write(globalThis.loaderTest[0]);
  globalThis[Symbol.for('clip.keepCode')]();
`;

describe('a program that the loader runs', () => {
  let directory: string;
  let lib: string;
  const ran: string[] = [];

  const chunk = (name: string, code: string, id: string): void =>
    writeFileSync(path.join(lib, name), `${code}\n//# id ${id.padStart(16, '0')}\n`);
  const run = (variant = ''): string[] => {
    ran.length = 0;
    (globalThis as { loaderTest?: string[] }).loaderTest = ran;
    runProgram(lib, 'program', variant, createRequire(path.join(lib, 'x.js')));
    return [...ran];
  };
  const kept = (): string[] => {
    try {
      return readdirSync(path.join(directory, 'dist/code-cache'));
    } catch {
      return [];
    }
  };
  const cacheFile = (): string => path.join(directory, 'dist/code-cache', kept()[0]!);
  /** As of a file that was written long ago. */
  const age = (): void => utimesSync(cacheFile(), 0, 0);

  beforeEach(() => {
    directory = mkdtempSync(path.join(tmpdir(), 'clip-loader-'));
    lib = path.join(directory, 'dist/lib');
    mkdirSync(lib, { recursive: true });
    chunk(
      'program.js',
      `const { two } = require('./other.js'); const { sep } = require('node:path'); loaderTest.push(two(), sep);`,
      '1',
    );
    chunk('other.js', `exports.two = () => 'two ' + __filename.slice(-8);`, '2');
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it('keeps what was compiled, once, and runs by it', () => {
    expect(run()).toEqual(['two other.js', '/']);
    expect(kept()).toEqual([]);
    keepCode();
    expect(kept()).toEqual([`program-${process.version}-${process.arch}`]);
    const first = readFileSync(cacheFile());
    expect([...decodeCodeFile(first).chunks.keys()]).toEqual(['program.js', 'other.js']);
    age();
    expect(run()).toEqual(['two other.js', '/']);
    keepCode();
    // Nothing was compiled anew: V8 had accepted all of it.
    expect(Buffer.compare(readFileSync(cacheFile()), first)).toBe(0);
    run('-ls');
    keepCode();
    expect(kept().sort()).toEqual(
      ['program', 'program-ls'].map((name) => `${name}-${process.version}-${process.arch}`).sort(),
    );
  });

  it('keeps again what a run has compiled that came further, and not what one has that did not', () => {
    chunk('program.js', `exports.x = 1; const { two } = require('./other.js'); loaderTest.push(two); `, '1');
    chunk('other.js', `exports.two = () => { let sum = 0; for (let i = 0; i < 9; i++) sum += i; return sum; };`, '2');
    const runIt = (): (() => number) => {
      run();
      return (globalThis as { loaderTest?: unknown[] }).loaderTest![0] as () => number;
    };
    const keptNow = (): { depth: number; length: number } => {
      const { depth, chunks } = decodeCodeFile(readFileSync(cacheFile()));
      return { depth, length: chunks.get('other.js')!.code.length };
    };
    const two = runIt();
    keepCode();
    const first = keptNow();
    expect(first.depth).toBe(0);
    two();
    keepCode();
    expect(keptNow()).toEqual(first);
    keepCode(1);
    const second = keptNow();
    expect(second.depth).toBe(1);
    expect(second.length).toBeGreaterThan(first.length);
    const bytes = readFileSync(cacheFile());
    // Of the same build, not an hour old.
    runIt();
    keepCode();
    keepCode(1);
    expect(Buffer.compare(readFileSync(cacheFile()), bytes)).toBe(0);
  });

  it('keeps no code while another thread has V8 collect under other flags, but a little later', async () => {
    run();
    setFlagsFromString('--compact-on-every-full-gc');
    try {
      keepCode();
      expect(kept()).toEqual([]);
    } finally {
      setFlagsFromString('--no-compact-on-every-full-gc');
    }
    await expect.poll(kept, { timeout: 20_000 }).toHaveLength(1);
  });

  it('runs the new text of a chunk, even one of the same length, and keeps it', () => {
    run();
    keepCode();
    chunk('other.js', `exports.two = () => 'TWO ' + __filename.slice(-8);`, '3');
    expect(run()).toEqual(['TWO other.js', '/']);
    // At once: the file of another build helps no run.
    keepCode();
    expect(decodeCodeFile(readFileSync(cacheFile())).chunks.get('other.js')!.id).toBe('3'.padStart(16, '0'));
    expect(run()).toEqual(['TWO other.js', '/']);
  });

  it('takes no code from a file that another user could have written', () => {
    const good = `exports.two = () => 'two ' + __filename.slice(-8);`;
    // In a process of its own, because V8 remembers what this one has compiled.
    const runAlone = (): string =>
      execFileSync(process.execPath, ['--input-type=module', '-e', ALONE, loaderModule, lib], { encoding: 'utf8' });
    chunk('other.js', good.replace("'two ", "'BAD "), '2');
    expect(runAlone()).toBe('BAD other.js');
    // The same id and length: the code is the file's, so this shows whether the file is taken.
    chunk('other.js', good, '2');
    expect(runAlone()).toBe('BAD other.js');
    chmodSync(cacheFile(), 0o666);
    expect(runAlone()).toBe('two other.js');
    chmodSync(cacheFile(), 0o644);
    chownSync(cacheFile(), 12_345, 12_345);
    expect(runAlone()).toBe('two other.js');
  });

  it('keeps code that the next run takes, although V8 was told to inline less meanwhile', () => {
    const rejected = `process.stderr.write(String(script.cachedDataRejected));`;
    const loader = fileURLToPath(loaderModule);
    const told = path.join(directory, 'run-program.mjs');
    // Says of each chunk whether V8 took its code.
    const text = readFileSync(loader, 'utf8').replaceAll("from './", `from '${path.dirname(loader)}/`);
    writeFileSync(told, text.replace('chunks.set(name', `${rejected} chunks.set(name`));
    chunk(
      'program.js',
      `loaderTest.push('ran'); process.getBuiltinModule('node:v8').setFlagsFromString('${LESS}');`,
      '1',
    );
    const runAlone = (): string =>
      spawnSync(process.execPath, ['--input-type=module', '-e', ALONE, pathToFileURL(told).href, lib], {
        encoding: 'utf8',
      }).stderr;
    expect(runAlone()).toBe('undefined');
    expect(runAlone()).toBe('false');
  });

  it('runs without a file that is damaged, and makes a new one', () => {
    run();
    keepCode();
    const whole = readFileSync(cacheFile());
    for (const bytes of [whole.subarray(0, whole.length >> 1), Buffer.alloc(0), Buffer.from('{')]) {
      writeFileSync(cacheFile(), bytes);
      expect(run()).toEqual(['two other.js', '/']);
      keepCode();
      expect(decodeCodeFile(readFileSync(cacheFile())).chunks.size).toBe(2);
    }
  });

  it('does without where it cannot write', () => {
    writeFileSync(path.join(directory, 'dist/code-cache'), 'a file in its place');
    expect(run()).toEqual(['two other.js', '/']);
    expect(() => keepCode()).not.toThrow();
    expect(readFileSync(path.join(directory, 'dist/code-cache'), 'utf8')).toBe('a file in its place');
  });
});
