import type { Stats } from 'node:fs';
import { posix } from 'node:path';
import type { InRoot } from './in-root.js';
import { EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, StartError } from './runtime.js';
import type { ContainerUser } from './user.js';

/** The kernel reads as much of a script for its "#!" line (BINPRM_BUF_SIZE). */
const SCRIPT_LINE = 256;

export interface Program {
  readonly name: string;
  readonly cwd: string;
  /** Of the container: NAME=value. */
  readonly env: readonly string[];
  readonly user: ContainerUser;
  /** Paths that something else is mounted on: what is there is not the image's to say. */
  readonly covered: readonly string[];
}

function mayExecute(stat: Stats, user: ContainerUser): boolean {
  if (user.uid === 0) return (stat.mode & 0o111) !== 0;
  if (stat.uid === user.uid) return (stat.mode & 0o100) !== 0;
  const inGroup = stat.gid === user.gid || user.additionalGids.includes(stat.gid);
  return (stat.mode & (inGroup ? 0o010 : 0o001)) !== 0;
}

export function isCovered(path: string, covered: readonly string[]): boolean {
  return covered.some((one) => path === one || path.startsWith(one === '/' ? '/' : `${one}/`));
}

/**
 * Says before the container starts why its program cannot be run: the runtime would say it too, in its own words and after more
 * work. A program in a volume is left to the runtime.
 * @throws StartError 127 when it or its interpreter is missing, 126 when it cannot be executed
 */
export function checkProgram(root: InRoot, program: Program): void {
  const { name, cwd, env, user, covered } = program;
  const shown = JSON.stringify(name);
  const found = name.includes('/') ? [posix.resolve(cwd, name)] : alongPath(env, cwd, name);
  let refused: string | null = null;
  for (const path of found) {
    if (isCovered(path, covered)) return;
    const stat = root.stat(path);
    if (stat === null) continue;
    if (stat.isDirectory()) refused ??= 'it is a directory';
    else if (!mayExecute(stat, user)) refused ??= 'it is not executable for its user';
    else {
      checkInterpreter(root, path, covered);
      return;
    }
  }
  if (refused !== null && name.includes('/')) {
    throw new StartError(EXIT_NOT_EXECUTABLE, `${shown} cannot be executed: ${refused}`, {
      hint: 'give another command, or run it through its interpreter',
    });
  }
  const where = name.includes('/') ? 'the image has no such file' : 'the image has none along its PATH';
  throw new StartError(EXIT_NOT_FOUND, `${shown} not found: ${where}`, {
    hint: name.startsWith('-')
      ? 'flags of clipctl stand before the image, and the command after it needs no --'
      : 'clipctl ls lists what the image holds; --entrypoint and --env PATH=… change what is run',
  });
}

function alongPath(env: readonly string[], cwd: string, name: string): string[] {
  const path = env.find((pair) => pair.startsWith('PATH='))?.slice('PATH='.length) ?? '';
  return path.split(':').map((directory) => posix.resolve(cwd, directory, name));
}

function checkInterpreter(root: InRoot, path: string, covered: readonly string[]): void {
  const head = root.read(path, SCRIPT_LINE);
  if (head === null || head[0] !== 0x23 || head[1] !== 0x21) return;
  const interpreter = /^#![ \t]*([^ \t\n]+)/.exec(head.toString('latin1'))?.[1];
  if (interpreter === undefined || !interpreter.startsWith('/') || isCovered(interpreter, covered)) return;
  if (root.stat(interpreter) !== null) return;
  throw new StartError(EXIT_NOT_FOUND, `${path} cannot be executed: the image has no ${interpreter}, its interpreter`, {
    hint: 'add it to the image, or give another command',
  });
}
