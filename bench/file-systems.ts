// What the suites that measure file systems share: compiled programs, and walks.
import { spawn } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { run as runProgram } from './support.js';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Runs bench/fuse-probe.c on the paths. */
export type Probe = (mode: string, directory: string, paths: readonly string[], ...args: string[]) => Promise<number[]>;

export async function compile(output: string, source: string, flags: readonly string[]): Promise<void> {
  await runProgram('gcc', ['-O2', '-o', output, source, ...flags]);
}

/** @param directory for the compiled program */
export async function probeTools(directory: string): Promise<Probe> {
  await runProgram(path.join(root, 'scripts/debian-packages.sh'), ['gcc', 'libc6-dev']);
  const program = path.join(directory, 'probe');
  await compile(program, path.join(root, 'bench/fuse-probe.c'), ['-pthread']);
  return async (mode, at, paths, ...args) => {
    const child = spawn(program, [mode, at, ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
    let out = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text;
    });
    child.stdin.end(`${paths.join('\n')}\n`);
    const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
    if (code !== 0) throw new Error(`probe ${mode} ${at}: exit ${code}`);
    return out.trim().split(' ').map(Number);
  };
}

/** Paths below `directory`, depth first, as a walk finds them. */
export function walk(directory: string): { path: string; size: number; file: boolean }[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true }).map((entry) => {
    const at = path.relative(directory, path.join(entry.parentPath, entry.name));
    return { path: at, file: entry.isFile(), size: entry.isFile() ? statSync(path.join(directory, at)).size : 0 };
  });
}

/** The same order in every run. */
export function shuffled<T>(list: readonly T[]): T[] {
  const out = [...list];
  let state = 1;
  for (let i = out.length - 1; i > 0; i--) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    const j = state % (i + 1);
    [out[i], out[j]] = [out[j]!, out[i]!];
  }
  return out;
}

/** `find -ls` without a reader of its output, which would take part of a core. */
export async function findLs(directory: string): Promise<number> {
  const start = performance.now();
  const child = spawn('find', [directory, '-ls'], { stdio: ['ignore', 'ignore', 'inherit'] });
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
  if (code !== 0) throw new Error(`find ${directory} -ls: exit ${code}`);
  return (performance.now() - start) / 1000;
}
